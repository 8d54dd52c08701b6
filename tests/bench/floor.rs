//! A PostgreSQL that does nothing, on bare tokio: accepts, welcomes anybody, answers any query with one row. What a
//! short connection costs here is what no proxy on tokio gets below.
//!
//! `floor SOCKET`

use std::io;
use std::process::ExitCode;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: floor SOCKET");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served: io::Result<()> = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let listener = UnixListener::bind(path)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(serve(stream));
            }
        })
    });
    if let Err(error) = served {
        eprintln!("floor: {error}");
    }
    ExitCode::FAILURE
}

/// A client, until it says good-bye or something is not as it should be.
async fn serve(mut stream: UnixStream) -> Option<()> {
    let mut input = BytesMut::with_capacity(1024);
    let size = message(&mut stream, &mut input, 0).await?;
    drop(input.split_to(size));
    stream.write_all(&welcome()).await.ok()?;
    loop {
        let size = message(&mut stream, &mut input, 1).await?;
        let query = input.split_to(size);
        if query[0] == b'X' {
            return None;
        }
        stream.write_all(&row()).await.ok()?;
    }
}

/// Waits for a whole message, whose length stands behind `tag` bytes.
async fn message(stream: &mut UnixStream, input: &mut BytesMut, tag: usize) -> Option<usize> {
    loop {
        if let Some(length) = input.get(tag..tag + 4).and_then(|bytes| bytes.try_into().ok()) {
            let size = tag + usize::try_from(u32::from_be_bytes(length)).ok()?;
            if input.len() >= size {
                return Some(size);
            }
        }
        if stream.read_buf(input).await.ok()? == 0 {
            return None;
        }
    }
}

fn put(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(4).to_be_bytes());
    out.extend_from_slice(body);
}

fn welcome() -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    put(&mut out, b'R', &[0, 0, 0, 0]);
    for (name, value) in [
        ("application_name", "floor"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("integer_datetimes", "on"),
        ("server_encoding", "UTF8"),
        ("server_version", "15.0"),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "Etc/UTC"),
    ] {
        put(&mut out, b'S', format!("{name}\0{value}\0").as_bytes());
    }
    put(&mut out, b'K', &[0, 0, 0, 1, 0, 0, 0, 2]);
    put(&mut out, b'Z', b"I");
    out
}

fn row() -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    put(&mut out, b'T', b"\0\x01?column?\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0");
    put(&mut out, b'D', b"\0\x01\0\0\0\x011");
    put(&mut out, b'C', b"SELECT 1\0");
    put(&mut out, b'Z', b"I");
    out
}
