//! Calls of functions by their OIDs: `fastpath.c`.

use super::backend::{Backend, aborted};
use super::error::{Report, Stop, fail};
use super::extended::{argument, formats};
use super::portal::format;
use super::shared::Shared;
use super::sql::ast::{Expr, From, Item, Name, Select, Statement};
use super::value::{Type, Value};
use super::wire::Body;

/// A function that is called by its OID.
struct Function {
    oid: i32,
    name: &'static str,
    args: &'static [Type],
    result: Type,
    /// A result of NULL for an argument that is.
    strict: bool,
}

const fn function(oid: i32, name: &'static str, args: &'static [Type], result: Type) -> Function {
    Function { oid, name, args, result, strict: true }
}

const fn lax(oid: i32, name: &'static str, args: &'static [Type], result: Type) -> Function {
    Function { oid, name, args, result, strict: false }
}

use Type::{Bool, Int4, Int8, Text, Void};

const FUNCTIONS: [Function; 13] = [
    function(154, "int4div", &[Int4, Int4], Int4),
    function(177, "int4pl", &[Int4, Int4], Int4),
    function(871, "upper", &[Text], Text),
    function(954, "loread", &[Int4, Int4], Text),
    function(1574, "nextval", &[Text], Int8),
    function(1575, "currval", &[Text], Int8),
    function(2077, "current_setting", &[Text], Text),
    lax(2078, "set_config", &[Text, Text, Bool], Text),
    function(2559, "lastval", &[], Int8),
    function(2880, "pg_advisory_lock", &[Int8], Void),
    function(2884, "pg_advisory_unlock", &[Int8], Bool),
    function(2892, "pg_advisory_unlock_all", &[], Void),
    lax(3036, "pg_notify", &[Text, Text], Void),
];

impl Backend {
    /// `HandleFunctionRequest`.
    pub fn function_call(&mut self, shared: &mut Shared, mut body: Body<'_>) -> Result<(), Stop> {
        self.begin_command(shared)?;
        if self.transaction.is_aborted() {
            return Err(aborted().into());
        }
        self.settings.queried = true;
        let oid = body.i32()?;
        let Some(function) = FUNCTIONS.iter().find(|function| function.oid == oid) else {
            return fail("42883", format!("function with OID {oid} does not exist"));
        };
        let values = self.arguments(shared, function, &mut body)?;
        let format = body.u16()?;
        body.end()?;
        let result = if function.strict && values.contains(&Value::Null) {
            Value::Null
        } else {
            self.called(shared, function, &values)?
        };
        if format > 1 && result != Value::Null {
            return fail("22023", format!("unsupported format code: {format}"));
        }
        self.report_at_once();
        self.check_encoding(std::slice::from_ref(&result))?;
        let encoding = self.settings.encoding();
        self.output.message(b'V', |out| result.put(out, (function.result, format == 1, encoding)));
        self.finish(shared)?;
        self.ready = true;
        Ok(())
    }

    /// `parse_fcall_arguments`.
    fn arguments(&mut self, shared: &Shared, function: &Function, body: &mut Body<'_>) -> Result<Vec<Value>, Stop> {
        let formats = formats(body)?;
        let count = usize::from(body.u16()?);
        if count != function.args.len() {
            return fail("08P01", "function call message contains another number of arguments than the function has");
        }
        if formats.len() > 1 && formats.len() != count {
            return fail("08P01", "function call message contains another number of formats than of arguments");
        }
        let encoding = self.settings.encoding();
        let mut values = Vec::new();
        for (at, ty) in function.args.iter().enumerate() {
            values.push(argument(*ty, format(&formats, at), body, encoding)?);
            if let ("nextval" | "currval", Some(Value::Text(name))) = (function.name, values.last()) {
                self.find_sequence(shared, name)?;
            }
        }
        Ok(values)
    }

    fn called(&mut self, shared: &mut Shared, function: &Function, values: &[Value]) -> Result<Value, Stop> {
        let number = |at: usize| if let Some(Value::Int(number)) = values.get(at) { *number } else { 0 };
        let out_of_range = || Report::error("22003", "integer out of range");
        match function.name {
            "int4pl" => {
                let sum = number(0) + number(1);
                return if i32::try_from(sum).is_ok() { Ok(Value::Int(sum)) } else { Err(out_of_range().into()) };
            }
            "int4div" => {
                let divided = number(0).checked_div(number(1));
                return divided.map_or_else(|| fail("22012", "division by zero"), |n| Ok(Value::Int(n)));
            }
            // It is called without a collation.
            "upper" => return fail("42P22", "could not determine which collation to use for upper() function"),
            "loread" => return fail("42704", format!("invalid large-object descriptor: {}", number(0))),
            _ => {}
        }
        // It may wait as in a select.
        let name = Name { schema: None, name: function.name.into() };
        let expr = Expr::Call(name, values.iter().cloned().map(Expr::Constant).collect());
        let items = vec![Item::Expr { expr, name: None }];
        let select = Select { items, from: From::Nothing, filter: None, order: None, limit: None };
        self.check_waits(shared, &Statement::Select(select), None, &[])?;
        self.call(shared, None, function.name, values)
    }
}
