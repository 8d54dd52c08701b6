//! Types and values, and what they look like in rows.

use std::borrow::Cow;
use std::rc::Rc;

use super::error::Report;

/// A column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Bool,
    Int8,
    Int4,
    Text,
    Oid,
    Name,
    Void,
    Unknown,
}

impl Type {
    pub fn oid(self) -> i32 {
        match self {
            Self::Bool => 16,
            Self::Name => 19,
            Self::Int8 => 20,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Oid => 26,
            Self::Unknown => 705,
            Self::Void => 2278,
        }
    }

    pub fn from_oid(oid: i32) -> Option<Self> {
        Some(match oid {
            0 | 705 => Self::Unknown,
            16 => Self::Bool,
            19 => Self::Name,
            20 => Self::Int8,
            23 => Self::Int4,
            25 | 1043 => Self::Text,
            26 => Self::Oid,
            _ => return None,
        })
    }

    pub fn size(self) -> i16 {
        match self {
            Self::Bool => 1,
            Self::Int8 => 8,
            Self::Int4 | Self::Oid | Self::Void => 4,
            Self::Text => -1,
            Self::Name => 64,
            Self::Unknown => -2,
        }
    }

    /// `other`, where this is not known.
    pub fn or(self, other: Self) -> Self {
        if self == Self::Unknown { other } else { self }
    }

    /// The name that a cast gives its column.
    pub fn column_name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::Text | Self::Unknown => "text",
            Self::Oid => "oid",
            Self::Name => "name",
            Self::Void => "void",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "bool" | "boolean" => Self::Bool,
            "int8" | "bigint" => Self::Int8,
            "int" | "int4" | "integer" => Self::Int4,
            "text" => Self::Text,
            "oid" => Self::Oid,
            "name" => Self::Name,
            _ => return None,
        })
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Text(Rc<str>),
}

impl Value {
    pub fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    pub fn is_true(&self) -> bool {
        *self == Self::Bool(true)
    }

    /// The text form; `None` for NULL.
    pub fn shown(&self) -> Option<String> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(b) => (if *b { "t" } else { "f" }).to_owned(),
            Self::Int(n) => n.to_string(),
            Self::Text(text) => text.to_string(),
        })
    }

    /// Appends a field of a DataRow, of a value that is [representable](Encoding::has).
    pub fn put(&self, out: &mut Vec<u8>, (ty, binary, encoding): (Type, bool, Encoding)) {
        let mut put = |bytes: &[u8]| {
            out.extend(i32::try_from(bytes.len()).unwrap_or(i32::MAX).to_be_bytes());
            out.extend_from_slice(bytes);
        };
        match self {
            Self::Null => out.extend((-1_i32).to_be_bytes()),
            Self::Bool(b) if binary => put(&[u8::from(*b)]),
            Self::Bool(b) => put(if *b { b"t" } else { b"f" }),
            Self::Int(n) if binary && ty == Type::Int8 => put(&n.to_be_bytes()),
            #[expect(clippy::cast_possible_truncation, reason = "an int4's value fits")]
            Self::Int(n) if binary => put(&(*n as i32).to_be_bytes()),
            Self::Int(n) => put(n.to_string().as_bytes()),
            Self::Text(text) => put(&encoding.encoded(text)),
        }
    }

    /// Reads a text value of type `ty`, as the type's input function does.
    pub fn parse(ty: Type, text: &str) -> Result<Self, Report> {
        let invalid = |what: &str| Report::error("22P02", format!("invalid input syntax for type {what}: \"{text}\""));
        let number = |what: &str| text.trim().parse::<i64>().map_err(|_| invalid(what));
        Ok(match ty {
            Type::Bool => Self::Bool(boolean(text).ok_or_else(|| invalid("boolean"))?),
            Type::Int8 => Self::Int(number("bigint")?),
            Type::Int4 | Type::Oid => {
                let number = number("integer")?;
                if i32::try_from(number).is_err() {
                    return Err(Report::error("22003", format!("value \"{text}\" is out of range for type integer")));
                }
                Self::Int(number)
            }
            Type::Void => Self::text(""),
            Type::Text | Type::Name | Type::Unknown => Self::text(text),
        })
    }

    /// Reads a binary value of type `ty`, as the type's receive function does.
    pub fn receive(ty: Type, bytes: &[u8], encoding: Encoding) -> Result<Self, Report> {
        let bad = || Report::error("22P03", "incorrect binary data format in bind parameter");
        let short = || Report::error("08P01", "insufficient data left in message");
        Ok(match (ty, bytes) {
            (Type::Bool, &[b]) => Self::Bool(b != 0),
            (Type::Bool, &[_, _, ..]) => return Err(bad()),
            (Type::Int8, bytes) if bytes.len() >= 8 => {
                let number = bytes.first_chunk().map(|bytes| i64::from_be_bytes(*bytes));
                Self::Int(number.filter(|_| bytes.len() == 8).ok_or_else(bad)?)
            }
            (Type::Int4 | Type::Oid, bytes) if bytes.len() >= 4 => {
                let number = bytes.first_chunk().map(|bytes| i64::from(i32::from_be_bytes(*bytes)));
                Self::Int(number.filter(|_| bytes.len() == 4).ok_or_else(bad)?)
            }
            (Type::Text | Type::Name | Type::Unknown, bytes) => Self::text(&encoding.decoded(bytes)?),
            _ => return Err(short()),
        })
    }

    /// Casts to `ty`.
    pub fn cast(self, ty: Type) -> Result<Self, Report> {
        Ok(match (self, ty) {
            (Self::Null, _) => Self::Null,
            (Self::Text(text), ty) => Self::parse(ty, &text)?,
            (Self::Int(n), Type::Int4) if i32::try_from(n).is_err() => {
                return Err(Report::error("22003", "integer out of range"));
            }
            (value @ Self::Int(_), Type::Int4 | Type::Int8 | Type::Oid) | (value @ Self::Bool(_), Type::Bool) => value,
            (Self::Int(n), Type::Bool) => Self::Bool(n != 0),
            (Self::Bool(b), Type::Int4 | Type::Int8) => Self::Int(i64::from(b)),
            (Self::Bool(b), _) => Self::text(if b { "true" } else { "false" }),
            (value, _) => Self::text(&value.shown().unwrap_or_default()),
        })
    }
}

/// A boolean as `parse_bool` reads it, except for abbreviations.
pub fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "t" | "yes" | "y" | "1" => Some(true),
        "off" | "false" | "f" | "no" | "n" | "0" => Some(false),
        _ => None,
    }
}

/// The encoding of a client's texts. One that has none has the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Utf8,
    Latin1,
}

impl Encoding {
    /// A client's text: `pg_client_to_server`.
    pub fn decoded(self, bytes: &[u8]) -> Result<Cow<'_, str>, Report> {
        match self {
            Self::Utf8 => utf8(bytes).map(Cow::Borrowed),
            Self::Latin1 if bytes.contains(&0) => {
                Err(Report::error("22021", "invalid byte sequence for encoding \"LATIN1\""))
            }
            Self::Latin1 => Ok(bytes.iter().map(|byte| char::from(*byte)).collect()),
        }
    }

    /// Whether all of a value can be said in it.
    pub fn has(self, value: &Value) -> bool {
        let Value::Text(text) = value else { return true };
        self == Self::Utf8 || text.chars().all(|char| u8::try_from(char).is_ok())
    }

    fn encoded(self, text: &str) -> Cow<'_, [u8]> {
        match self {
            Self::Utf8 => Cow::Borrowed(text.as_bytes()),
            Self::Latin1 => text.chars().map(|char| u8::try_from(char).unwrap_or(b'?')).collect(),
        }
    }
}

/// Text in the server's encoding.
pub fn utf8(bytes: &[u8]) -> Result<&str, Report> {
    let invalid = || Report::error("22021", "invalid byte sequence for encoding \"UTF8\"");
    if bytes.contains(&0) {
        return Err(invalid());
    }
    std::str::from_utf8(bytes).map_err(|_| invalid())
}
