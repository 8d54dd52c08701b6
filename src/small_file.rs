//! Files that an operator names, and that are read whole: none without an end fills the memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Longest file that is read, in bytes: a list of half a million users has about as much.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Returns the content of a file.
///
/// # Errors
/// The system's, or that it is longer than [`MAX_BYTES`].
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    // With room for all of it at once, no copy of a secret is left behind by growing.
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(MAX_BYTES).min(MAX_BYTES) + 1);
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut content)?;
    if content.len() > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 64 MB"));
    }
    Ok(content)
}

/// As [`read`], for text.
///
/// # Errors
/// As [`read`], or that it is no UTF-8.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8");
    String::from_utf8(read(path)?).map_err(not_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_refused() {
        let error = read(Path::new("/dev/zero")).expect_err("no end");
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, b"a\xff").expect("writable");
        assert_eq!(read(&file).expect("readable"), b"a\xff");
        assert!(read_text(&file).expect_err("no text").to_string().contains("UTF-8"));
    }
}
