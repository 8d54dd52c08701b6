//! The start of a connection.

use std::rc::Rc;

use super::backend::{Backend, Phase};
use super::error::Report;
use super::shared::Shared;
use super::wire::put_string;

const PROTOCOL_3: i32 = 3;

/// Since this version a client may speak version 3.2 of the protocol.
const SPEAKS_3_2: u32 = 18;
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
            asked if asked >> 16 == PROTOCOL_3 => {
                let latest = if shared.version >= SPEAKS_3_2 { PROTOCOL_3 << 16 | 2 } else { PROTOCOL_3 << 16 };
                self.negotiate(asked, latest, body);
                match self.log_in(shared, body) {
                    Ok(()) => self.welcome(asked.min(latest)),
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

    /// `SendNegotiateProtocolVersion`, where that is due.
    fn negotiate(&mut self, asked: i32, latest: i32, body: &[u8]) {
        let options: Vec<&[u8]> =
            body.split(|&byte| byte == 0).step_by(2).filter(|name| name.starts_with(b"_pq_.")).collect();
        if asked <= latest && options.is_empty() {
            return;
        }
        self.output.message(b'v', |body| {
            body.extend(latest.to_be_bytes());
            body.extend(u32::try_from(options.len()).unwrap_or_default().to_be_bytes());
            for name in options {
                body.extend(name);
                body.push(0);
            }
        });
    }

    fn log_in(&mut self, shared: &mut Shared, body: &[u8]) -> Result<(), Report> {
        let mut strings = body.split(|&byte| byte == 0).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let (mut user, mut database, mut wanted, mut first) = (String::new(), String::new(), Vec::new(), Vec::new());
        while let (Some(name), Some(value)) = (strings.next().filter(|name| !name.is_empty()), strings.next()) {
            match name.as_str() {
                "user" => user = value,
                "database" => database = value,
                "replication" => {}
                option if option.starts_with("_pq_.") => {}
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
        let role = || Some(Rc::<str>::from(user.as_str()));
        let place = || Some(Rc::<str>::from(database.as_str()));
        // What is said of more than these comes first.
        for sessions in [(place(), None), (None, role()), (place(), role())] {
            for (name, value) in shared.beginnings.get(&sessions).into_iter().flatten() {
                self.settings.start(name, value).map_err(|error| Report::fatal(error.code, error.message))?;
            }
        }
        for (name, value) in first.into_iter().chain(wanted) {
            self.settings.start(&name, &value).map_err(|error| Report::fatal(error.code, error.message))?;
        }
        self.user = user.into();
        self.database = database.into();
        self.phase = Phase::Serving;
        self.refresh_path(shared);
        Ok(())
    }

    /// Tells a client that speaks `protocol` what it must know.
    fn welcome(&mut self, protocol: i32) {
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
            // Longer ones differ in their end.
            let front: &[u8] = if protocol & 0xffff < 2 { &[] } else { &[7; 28] };
            body.extend_from_slice(front);
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
