//! The only places that write to standard output and standard error.

use std::io::{self, Write};

/// Writes to standard output.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) -> io::Result<()> {
    print(&format!("{text}\n"))
}

/// Writes a line to standard error; if that fails there is nobody left to tell. What is quoted in it may
/// come from anywhere, so only its line ends and tabs reach the terminal as such.
pub(crate) fn complain(text: &str) {
    let safe = text.split_inclusive(['\n', '\t']).fold(String::new(), |mut safe, part| {
        let end = part.strip_suffix(['\n', '\t']).map_or(part.len(), str::len);
        let (words, end) = part.split_at(end);
        safe.push_str(&crate::format::table::harmless(words));
        safe.push_str(end);
        safe
    });
    writeln!(io::stderr().lock(), "{safe}").ok();
}
