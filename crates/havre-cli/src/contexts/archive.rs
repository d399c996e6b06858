//! A context as one file: Docker's tar, or a zip.
//!
//! Invariants: only `meta.json` and `tls/<endpoint>/<file>` are taken, each a plain name; what is read is
//! bounded before it is kept; nothing is written before all of it was read.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::{Keys, Meta};
use crate::failure::Failure;

/// The largest archive, and the most that may come out of one: Docker's bound.
pub(crate) const MAX: usize = 10 << 20;
const BLOCK: usize = 512;
/// A zip entry's own header, the directory's, and the record at the end.
const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;

fn refuse<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::plain(text))
}

/// Writes a context.
pub(crate) fn write(meta: &Meta, keys: &Keys) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let text = serde_json::to_vec(meta).map_err(|error| Failure::plain(error.to_string()))?;
    entry(&mut out, "meta.json", b'0', 0o644, &text);
    entry(&mut out, "tls", b'5', 0o700, b"");
    for (endpoint, files) in keys {
        entry(&mut out, &format!("tls/{endpoint}"), b'5', 0o700, b"");
        for (name, bytes) in files {
            entry(&mut out, &format!("tls/{endpoint}/{name}"), b'0', 0o600, bytes);
        }
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    Ok(out)
}

fn entry(out: &mut Vec<u8>, name: &str, kind: u8, mode: u32, bytes: &[u8]) {
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, text: &[u8]| {
        // Names are bounded where they come from; a longer one is cut, never written elsewhere.
        let field = header.iter_mut().skip(at).zip(text);
        field.for_each(|(slot, byte)| *slot = *byte);
    };
    put(0, name.as_bytes().get(..100).unwrap_or(name.as_bytes()));
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\x000000000\0");
    put(124, format!("{:011o}\0", bytes.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    header.iter_mut().skip(148).zip(sum.as_bytes()).for_each(|(slot, byte)| *slot = *byte);
    out.extend(header);
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// Reads a context; its name is the caller's matter.
pub(crate) fn read(bytes: &[u8]) -> Result<(Meta, Keys), Failure> {
    if bytes.len() > MAX {
        return refuse(format!("the archive is larger than {MAX} bytes"));
    }
    let files = if bytes.starts_with(b"PK") { unzip(bytes)? } else { untar(bytes)? };
    let mut meta = None;
    let mut keys = Keys::new();
    for (name, bytes) in files {
        let parts: Vec<&str> = name.split('/').collect();
        match parts.as_slice() {
            ["meta.json"] => {
                let parsed: Meta = serde_json::from_slice(&bytes)
                    .map_err(|error| Failure::plain(format!("meta.json: {error}")))?;
                meta = Some(parsed);
            }
            ["tls", endpoint, file] if is_plain(endpoint) && is_plain(file) => {
                keys.entry((*endpoint).to_owned()).or_default().insert((*file).to_owned(), bytes);
            }
            _ => return refuse(format!("{name}: unexpected context file")),
        }
    }
    match meta {
        Some(meta) => Ok((meta, keys)),
        None => refuse("invalid context: no metadata found"),
    }
}

fn is_plain(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.chars().all(inner)
}

type Files = BTreeMap<String, Vec<u8>>;

/// Reads a tar of plain files. Docker's own lacks its end and the padding before it.
fn untar(bytes: &[u8]) -> Result<Files, Failure> {
    let mut files = Files::new();
    let mut rest = bytes;
    if bytes.len() < BLOCK {
        return refuse("unexpected EOF");
    }
    while let Some((header, behind)) = rest.split_at_checked(BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        let field = |from: usize, length: usize| {
            let field = header.get(from..from + length).unwrap_or_default();
            let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
            String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
        };
        let number = |from, length| usize::from_str_radix(field(from, length).trim(), 8).ok();
        let sum: usize = header
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { usize::from(*byte) })
            .sum();
        if number(148, 8) != Some(sum) {
            return refuse("invalid tar header");
        }
        let (prefix, name) = (field(345, 155), field(0, 100));
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let Some(data) = number(124, 12).and_then(|size| behind.get(..size)) else {
            return refuse(format!("{name}: unexpected EOF"));
        };
        match header.get(156) {
            Some(b'5') if is_folder(&name) => {}
            Some(b'0' | 0) => drop(files.insert(name, data.to_vec())),
            _ => return refuse(format!("{name}: unexpected context file")),
        }
        rest = behind.get(data.len().next_multiple_of(BLOCK)..).unwrap_or_default();
    }
    Ok(files)
}

fn is_folder(name: &str) -> bool {
    let mut parts = name.trim_end_matches('/').split('/');
    parts.next() == Some("tls") && parts.all(is_plain)
}

/// Reads a zip of plain files: stored or deflated.
fn unzip(bytes: &[u8]) -> Result<Files, Failure> {
    let broken = || Failure::plain("zip: not a valid zip file");
    let short = |at: usize| {
        let pair = bytes.get(at..at + 2).and_then(|pair| pair.try_into().ok());
        pair.map(u16::from_le_bytes).map(usize::from).ok_or_else(broken)
    };
    let long = |at: usize| {
        let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
        four.map(u32::from_le_bytes).ok_or_else(broken)
    };
    let size = |at: usize| long(at).and_then(|number| usize::try_from(number).map_err(|_| broken()));
    let end = (0..=bytes.len().saturating_sub(22))
        .rev()
        .find(|at| long(*at).is_ok_and(|word| word == END))
        .ok_or_else(broken)?;
    let (count, mut at) = (short(end + 10)?, size(end + 16)?);
    let (mut files, mut total) = (Files::new(), 0_usize);
    for _ in 0..count {
        if long(at)? != CENTRAL {
            return Err(broken());
        }
        let (method, packed, unpacked) = (short(at + 10)?, size(at + 20)?, size(at + 24)?);
        let (name_length, more, comment) = (short(at + 28)?, short(at + 30)?, short(at + 32)?);
        let start = size(at + 42)?;
        let name = bytes.get(at + 46..at + 46 + name_length).ok_or_else(broken)?;
        let name = String::from_utf8_lossy(name).into_owned();
        at += 46 + name_length + more + comment;
        if name.ends_with('/') && is_folder(&name) {
            continue;
        }
        total = total.saturating_add(unpacked);
        if total > MAX {
            return refuse(format!("{name}: the archive holds more than {MAX} bytes"));
        }
        if long(start)? != LOCAL {
            return Err(broken());
        }
        let data = start + 30 + short(start + 26)? + short(start + 28)?;
        let data = bytes.get(data..data.saturating_add(packed)).ok_or_else(broken)?;
        let mut content = Vec::new();
        match method {
            0 => content.extend(data),
            8 => {
                // Whatever the directory promises, no more than that is made.
                let inflated = flate2::read::DeflateDecoder::new(data);
                let bound = u64::try_from(unpacked).unwrap_or(0).saturating_add(1);
                inflated.take(bound).read_to_end(&mut content).map_err(|_| broken())?;
            }
            _ => return refuse(format!("{name}: zip: unsupported compression algorithm")),
        }
        if content.len() != unpacked {
            return Err(broken());
        }
        files.insert(name, content);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Meta, Keys) {
        let keys = super::super::docker_keys(BTreeMap::from([("ca.pem".into(), b"CA".to_vec())]));
        (Meta::of_host("web", Some("tcp://h:1"), true), keys)
    }

    #[test]
    fn what_is_written_is_read_back_even_without_its_end() {
        let (meta, keys) = sample();
        let bytes = write(&meta, &keys).unwrap();
        assert_eq!(read(&bytes).unwrap(), (meta.clone(), keys.clone()));
        // Docker leaves out the last padding and the end.
        let cut = bytes.len() - 2 * BLOCK - (BLOCK - 2);
        assert_eq!(read(&bytes[..cut]).unwrap(), (meta, keys));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for name in
            ["../x", "/etc/passwd", "tls/docker/../../x", "tls/docker/.ssh", "tls/x", "a", "tls/a/b/c"]
        {
            let mut bytes = Vec::new();
            entry(&mut bytes, name, b'0', 0o600, b"x");
            let error = read(&bytes).unwrap_err().message;
            assert_eq!(error, format!("{name}: unexpected context file"));
        }
        let mut link = Vec::new();
        entry(&mut link, "meta.json", b'2', 0o600, b"");
        assert!(read(&link).is_err());
    }

    #[test]
    fn broken_and_endless_archives_are_refused() {
        assert_eq!(read(b"hi").unwrap_err().message, "unexpected EOF");
        assert!(read(&vec![0; MAX + 1]).is_err());
        assert!(read(&vec![b'x'; BLOCK]).is_err());
        assert!(read(b"PK\x03\x04").is_err());
        let mut short = Vec::new();
        entry(&mut short, "meta.json", b'0', 0o600, &[b' '; 600]);
        assert!(read(&short[..700]).unwrap_err().message.contains("unexpected EOF"));
        let mut none = Vec::new();
        entry(&mut none, "tls", b'5', 0o700, b"");
        assert_eq!(read(&none).unwrap_err().message, "invalid context: no metadata found");
    }

    /// A zip of one deflated file that says it is `promised` bytes long.
    fn zip(name: &str, content: &[u8], promised: usize) -> Vec<u8> {
        use std::io::Write as _;
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        let packed = encoder.finish().unwrap();
        let four = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
        let two = |number: usize| u16::try_from(number).unwrap().to_le_bytes();
        let mut out = Vec::new();
        out.extend(LOCAL.to_le_bytes());
        out.extend([20, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        out.extend([four(packed.len()), four(promised)].concat());
        out.extend([two(name.len()), two(0)].concat());
        out.extend(name.as_bytes());
        out.extend(&packed);
        let directory = out.len();
        out.extend(CENTRAL.to_le_bytes());
        out.extend([20, 0, 20, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        out.extend([four(packed.len()), four(promised)].concat());
        out.extend([two(name.len()), two(0), two(0), two(0), two(0)].concat());
        out.extend([four(0), four(0)].concat());
        out.extend(name.as_bytes());
        let size = out.len() - directory;
        out.extend(END.to_le_bytes());
        out.extend([two(0), two(0), two(1), two(1)].concat());
        out.extend([four(size), four(directory)].concat());
        out.extend(two(0));
        out
    }

    #[test]
    fn zips_are_read_and_bombs_are_not() {
        let text = br#"{"Name":"z","Endpoints":{"docker":{"Host":"unix:///z"}}}"#;
        assert_eq!(read(&zip("meta.json", text, text.len())).unwrap().0.host(), "unix:///z");
        assert!(read(&zip("meta.json", &vec![b' '; 100_000], 10)).is_err());
        assert!(read(&zip("meta.json", text, MAX + 1)).unwrap_err().message.contains("more than"));
        assert!(read(&zip("../evil", text, text.len())).unwrap_err().message.contains("unexpected"));
    }
}
