//! Headers by which parsers of archives have hung, or taken all memory: extensions without end, maps of holes that
//! contradict the file, sizes that are none. Each is refused or read in as many steps as it has bytes (attack I09).

use std::io::{self, Read};

use havre_archive::ArchiveError;
use havre_archive::tar::{Kind, TarReader};
use havre_archive::unpack::Links;

/// An archive that counts how often and how far it is read; past its end it goes on with zeros for ever.
struct Counted<'a> {
    bytes: &'a [u8],
    endless: bool,
    reads: usize,
    read: usize,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        assert!(self.reads < 1 << 16, "it does not end: {} bytes", self.read);
        let count = match self.bytes.read(into)? {
            0 if self.endless => {
                into.fill(b'x');
                into.len()
            }
            count => count,
        };
        self.read += count;
        Ok(count)
    }
}

fn block(kind: u8, name: &str, size: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(block)
}

fn seal(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn octal(size: u64) -> Vec<u8> {
    format!("{size:011o}").into_bytes()
}

/// GNU's way of sizes beyond eleven digits.
fn binary(size: i128) -> Vec<u8> {
    let mut bytes = size.to_be_bytes()[4..].to_vec();
    bytes[0] |= 0x80;
    bytes
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Records of PAX before an empty file.
fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        body.extend(format!("{length} {key}={value}\n").into_bytes());
    }
    with_pax(&body)
}

fn with_pax(body: &[u8]) -> Vec<u8> {
    [block(b'x', "pax", &octal(body.len() as u64)), padded(body), block(b'0', "f", &octal(0))].concat()
}

/// What became of an archive: how many entries, how many bytes of content, or why not.
fn read(bytes: &[u8], endless: bool) -> Result<(usize, u64), String> {
    let mut tar = TarReader::new(Counted { bytes, endless, reads: 0, read: 0 }, true);
    let (mut entries, mut content) = (0, 0);
    let result = (|| {
        while let Some(_entry) = tar.next_entry()? {
            entries += 1;
            loop {
                let piece = tar.chunk()?.len();
                if piece == 0 {
                    break;
                }
                content += piece as u64;
            }
        }
        Ok::<_, havre_archive::ArchiveError>(())
    })();
    result.map(|()| (entries, content)).map_err(|error| format!("{error:?}"))
}

#[test]
fn i09_extensions_without_end_are_refused() {
    // A name of sixty-four gigabytes, which goes on coming.
    for kind in [b'L', b'K', b'x', b'g'] {
        let long = block(kind, "././@LongLink", &binary(64 << 30));
        assert!(read(&long, true).is_err(), "{}", char::from(kind));
        let negative = block(kind, "././@LongLink", &binary(-512));
        assert!(read(&negative, true).is_err(), "{}", char::from(kind));
    }
    // Names of names of names: only bytes of the archive make work.
    for kind in [b'L', b'x'] {
        let mut chain = Vec::new();
        for _ in 0..5_000 {
            chain.extend(block(kind, "n", &octal(0)));
        }
        chain.extend(block(b'0', "f", &octal(0)));
        assert!(read(&chain, false).map_or(true, |(entries, _)| entries <= 1), "{}", char::from(kind));
    }
}

#[test]
fn i09_records_that_lie_about_their_length_are_no_trap() {
    for body in [
        "0 path=a\n",
        "1 path=a\n",
        "18446744073709551615 path=a\n",
        "99999999999999999999999999 path=a\n",
        "-5 path=a\n",
        "+9 path=a\n",
        "9 path=a",
        "9 pathxa\n",
        "5 =\n\n",
        "\n\n\n\n",
        "                    ",
        "9 path=a\n0 path=b\n",
    ] {
        let found = read(&with_pax(body.as_bytes()), false);
        assert!(found.as_ref().map_or(true, |found| *found == (1, 0)), "{body:?}: {found:?}");
    }
    let many = "9 path=a\n".repeat(100_000);
    let found = read(&with_pax(many.as_bytes()), false);
    assert!(found.as_ref().map_or(true, |found| *found == (1, 0)), "{found:?}");
}

#[test]
fn i09_sizes_that_are_none_are_refused() {
    for size in [binary(-1), binary(i128::from(i64::MAX) + 1), binary(1 << 80), b"8888888888".to_vec()] {
        let found = read(&block(b'0', "f", &size), true);
        assert!(found.is_err(), "{size:?}: {found:?}");
    }
    for size in ["-1", "9223372036854775808", "18446744073709551616", "1e9", "", "0x10"] {
        let found = read(&pax(&[("size", size)]), false);
        assert!(found.as_ref().map_or(true, |found| *found == (1, 0)), "{size:?}: {found:?}");
    }
    // More than there is: the end is noticed, not waited for.
    assert!(read(&block(b'0', "f", &octal(1 << 32)), false).is_err());
}

#[test]
fn i09_maps_of_holes_are_bounded() {
    let sparse = |records: &[(&str, &str)]| {
        let common = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "f")];
        pax(&[&common[..], records].concat())
    };
    // Version 1.0 has its map in the content: a number of parts, then each part's place and length.
    let with_map = |map: &str, real: &str| {
        let mut archive = sparse(&[("GNU.sparse.realsize", real)]);
        let last = archive.len() - 512;
        archive.truncate(last);
        archive.extend(block(b'0', "f", &octal(map.len() as u64)));
        archive.extend(padded(map.as_bytes()));
        archive
    };
    for (map, real) in [
        ("18446744073709551615\n", "10"),
        ("1000000000\n0\n1\n", "10"),
        ("100001\n", "10"),
        ("1\n18446744073709551615\n18446744073709551615\n", "10"),
        ("1\n-1\n5\n", "10"),
        ("x\n", "10"),
        ("", "10"),
        ("1\n0\n", "10"),
        ("11111111111111111111111111111111111111111111", "10"),
    ] {
        let found = read(&with_map(map, real), false);
        assert!(found.as_ref().map_or(true, |(entries, _)| *entries <= 1), "{map:?}: {found:?}");
    }
    // Older versions have it in the records.
    let parts: Vec<String> = (0..200_000).map(|number| format!("{number},0")).collect();
    let found = read(&pax(&[("GNU.sparse.map", &parts.join(",")), ("GNU.sparse.size", "5")]), false);
    assert!(found.as_ref().map_or(true, |found| *found == (1, 0)), "{found:?}");
    // The oldest one has further headers: as many as there are, which say that yet another one follows.
    let mut old = block(b'S', "f", &octal(0));
    old[257..265].copy_from_slice(b"ustar  \0");
    old[386..410].copy_from_slice(b"000000000000000000000000");
    old[482] = 1;
    let mut archive = seal(old);
    let mut more = vec![0; 512];
    more[504] = 1;
    archive.extend(more.repeat(30_000));
    let found = read(&archive, true);
    assert!(found.is_err(), "{found:?}");
}

#[test]
fn i18_folders_without_number_do_not_take_all_memory() {
    let root = tempfile::tempdir().unwrap();
    let long = vec!["n".repeat(200); 19].join("/");
    let folders: Vec<_> =
        (0..18_000).map(|number| crate::entry(Kind::Directory, &format!("{long}/{number}"), "")).collect();
    let error = crate::unpack(&crate::archive(&folders), root.path(), "", Links::InRoot).unwrap_err();
    assert!(matches!(error, ArchiveError::Limit { limit: 67_108_864, .. }), "{error}");
    // The same one again and again is one.
    let same = vec![crate::entry(Kind::Directory, "folder", ""); 100_000];
    let root = tempfile::tempdir().unwrap();
    crate::unpack(&crate::archive(&same), root.path(), "", Links::InRoot).unwrap();
}

/// Gives what it has in pieces of so many bytes.
struct Piecemeal<'a>(&'a [u8], usize);

impl Read for Piecemeal<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.1.min(into.len());
        self.0.read(&mut into[..length])
    }
}

#[test]
fn archives_in_pieces_of_any_size_are_the_same() {
    let long = "n".repeat(300);
    let entries = [
        crate::entry(Kind::Directory, "folder", ""),
        crate::entry(Kind::File, &long, ""),
        crate::entry(Kind::Symlink, "link", &long),
        crate::entry(Kind::File, "last", ""),
    ];
    let archive = crate::archive(&entries);
    for size in [1, 7, 100, 511, 513, 1000, 1 << 20] {
        let mut tar = TarReader::new(Piecemeal(&archive, size), true);
        let mut names = Vec::new();
        while let Some(entry) = tar.next_entry().unwrap_or_else(|error| panic!("{size}: {error:?}")) {
            names.push(entry.path.len());
        }
        assert_eq!(names, [6, 300, 4, 4], "{size}");
    }
}
