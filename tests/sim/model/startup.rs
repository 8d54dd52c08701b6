//! The start of a connection.

use super::backend::{Backend, Phase};
use super::error::Report;
use super::shared::Shared;
use super::wire::put_string;

const PROTOCOL_3: i32 = 3 << 16;
const CANCEL: i32 = 80_877_102;
const SSL: i32 = 80_877_103;
const GSS: i32 = 80_877_104;

/// The largest startup packet.
const LARGEST: usize = 10_000;

impl Backend {
    /// Works on the first packets; says whether it got on.
    pub fn startup(&mut self, shared: &mut Shared) -> bool {
        let (bytes, read) = self.take_startup();
        let Some(length) = bytes.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize) else {
            return false;
        };
        if !(8..=LARGEST).contains(&length) {
            self.close(shared);
            return false;
        }
        let Some(packet) = bytes.get(4..length) else { return false };
        let packet = packet.to_vec();
        *read += length;
        let Some((code, body)) = packet.split_first_chunk::<4>() else { return false };
        match i32::from_be_bytes(*code) {
            SSL | GSS => {
                self.output.raw(b"N");
                true
            }
            CANCEL => {
                if let (Some(pid), Some(secret)) = (body.first_chunk::<4>(), body.last_chunk::<4>()) {
                    shared.cancelled.push((i32::from_be_bytes(*pid), Some(i32::from_be_bytes(*secret))));
                }
                self.close(shared);
                false
            }
            PROTOCOL_3 => {
                match self.log_in(shared, body) {
                    Ok(()) => self.welcome(),
                    Err(fatal) => self.error(shared, &fatal),
                }
                true
            }
            _ => {
                self.error(shared, &Report::fatal("0A000", "unsupported frontend protocol"));
                false
            }
        }
    }

    fn log_in(&mut self, shared: &mut Shared, body: &[u8]) -> Result<(), Report> {
        let mut strings = body.split(|&byte| byte == 0).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let (mut user, mut database, mut wanted, mut first) = (String::new(), String::new(), Vec::new(), Vec::new());
        while let (Some(name), Some(value)) = (strings.next().filter(|name| !name.is_empty()), strings.next()) {
            match name.as_str() {
                "user" => user = value,
                "database" => database = value,
                "replication" => {}
                // The last counts, and before all others.
                "options" => first = options(&value),
                _ => wanted.push((name, value)),
            }
        }
        if user.is_empty() {
            return Err(Report::fatal("28000", "no PostgreSQL user name specified in startup packet"));
        }
        if database.is_empty() {
            database.clone_from(&user);
        }
        self.output.message(b'R', |body| body.extend([0; 4]));
        if !shared.databases.contains_key(&*database) {
            return Err(Report::fatal("3D000", format!("database \"{database}\" does not exist")));
        }
        self.settings = super::settings::Settings::new(&user, shared.version);
        for (name, value) in shared.configured.iter().chain(&shared.defaults) {
            self.settings.begin_with(name, value);
        }
        self.configured = shared.configured.len();
        for (name, value) in first.into_iter().chain(wanted) {
            self.settings.start(&name, &value).map_err(|error| Report::fatal(error.code, error.message))?;
        }
        self.user = user.into();
        self.database = database.into();
        self.phase = Phase::Serving;
        self.refresh_path(shared);
        Ok(())
    }

    fn welcome(&mut self) {
        let output = &mut self.output;
        for (name, value) in self.settings.reported() {
            output.message(b'S', |body| {
                put_string(body, name);
                put_string(body, value);
            });
        }
        let (pid, secret) = (self.pid, self.secret);
        self.output.message(b'K', |body| {
            body.extend(pid.to_be_bytes());
            body.extend(secret.to_be_bytes());
        });
        self.ready = true;
    }
}

/// The settings in `options`: `-c name=value`, `-cname=value`, `--name=value`.
fn options(text: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => words.last_mut().into_iter().for_each(|word| word.extend(chars.next())),
            ' ' => words.push(String::new()),
            other => words.last_mut().into_iter().for_each(|word| word.push(other)),
        }
    }
    let mut found = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let pair = match word.as_str() {
            "-c" => words.next().unwrap_or_default(),
            other => other.trim_start_matches("--").trim_start_matches("-c").to_owned(),
        };
        if let Some((name, value)) = pair.split_once('=') {
            found.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    found
}
