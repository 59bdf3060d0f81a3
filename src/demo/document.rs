//! The document of a demo: any file of up to 10 MiB that is text.

use std::path::Path;

use crate::error::{Error, Result};
use crate::store::pilot_host::LARGEST_DOCUMENT;

/// A document, read.
#[derive(Debug)]
pub struct Document {
    pub(super) name: String,
    pub(super) text: String,
    /// How its bytes were read, when not as UTF-8.
    pub(super) encoding: Option<&'static str>,
}

impl Document {
    /// Reads a file. UTF-16 is known by its mark; what is not UTF-8 either is read as ISO-8859-1, which gives every
    /// byte a character. Errors: Io when it cannot be read, Usage when it is too long or no text.
    pub async fn read(path: &Path) -> Result<Self> {
        let place = path.display();
        let bytes = tokio::fs::read(path).await.map_err(|error| {
            Error::io(format!("reading {place}"), error).hint("name a text file that exists")
        })?;
        let name =
            path.file_name().map_or_else(|| place.to_string(), |name| name.to_string_lossy().into_owned());
        let (text, encoding) = decode(bytes);
        if let Some(at) = text.find('\0') {
            let message = format!("{place} is not a text: it has a NUL character at byte {at}");
            return Err(Error::usage(message).hint("name a text file; Postgres cannot hold NUL in a text"));
        }
        if text.len() > LARGEST_DOCUMENT {
            let message =
                format!("{place} has {} bytes; the staging table takes {LARGEST_DOCUMENT}", text.len());
            return Err(Error::usage(message).hint("name a shorter document"));
        }
        Ok(Self { name, text, encoding })
    }
}

fn decode(bytes: Vec<u8>) -> (String, Option<&'static str>) {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes.as_slice() {
        [0xff, 0xfe, rest @ ..] => return (wide(rest, u16::from_le_bytes), Some("UTF-16, little end first")),
        [0xfe, 0xff, rest @ ..] => return (wide(rest, u16::from_be_bytes), Some("UTF-16, big end first")),
        _ => {}
    }
    match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => (error.into_bytes().into_iter().map(char::from).collect(), Some("ISO-8859-1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_read() {
        assert_eq!(decode("häi 🦀".into()), ("häi 🦀".to_owned(), None));
        assert_eq!(decode(Vec::new()), (String::new(), None));
        assert_eq!(decode(vec![0x68, 0xe4, 0x69]), ("häi".to_owned(), Some("ISO-8859-1")));
        assert_eq!(decode(vec![0xff, 0xfe, 0x68, 0, 0xe4, 0]).0, "hä");
        assert_eq!(decode(vec![0xfe, 0xff, 0, 0x68]).0, "h");
    }
}
