//! What containers and crashes do to a log (rows L01 to L04 of the list of attacks).

use std::io::Write as _;

use havre_log::{Options, ReadSpec, Reader, Stream, Writer};

use crate::{at, lines, log, rest, unbounded};

/// Scaled from the gigabyte of the row: every boundary is met thousands of times.
const LONG: usize = 64 << 20;

#[test]
fn l01_a_line_without_end_is_split_and_rejoins() {
    let log = log();
    let mut writer = Writer::open(&log.path, unbounded()).unwrap();
    // 61 bytes: no multiple meets the boundary of 16 KiB the same way twice; with NUL and bytes that are no text.
    let piece: Vec<u8> = (0..61_u8).map(|n| if n % 20 == 7 { 0 } else { b'a' + n % 26 }).collect();
    let mut left = LONG;
    while left > 0 {
        let block: Vec<u8> = piece.iter().copied().cycle().take(left.min(61 * 1000)).collect();
        writer.write(Stream::Stdout, &block, at(1)).unwrap();
        left -= block.len();
    }
    writer.write(Stream::Stdout, b"\nnext\n", at(2)).unwrap();
    let mut reader = Reader::open(&log.path, ReadSpec::default()).unwrap();
    let (mut position, mut parts) = (0_usize, 0_usize);
    loop {
        let entry = reader.next().unwrap().expect("the line ends");
        assert_eq!(entry.time, at(1), "all parts have the time of the first");
        assert!(entry.line.len() <= (16 << 10) + 1, "{}", entry.line.len());
        parts += 1;
        let text = entry.line.strip_suffix(b"\n").unwrap_or(&entry.line);
        for byte in text {
            assert_eq!(*byte, piece[position % 61], "at {position}");
            position += 1;
        }
        if entry.line.ends_with(b"\n") {
            break;
        }
    }
    assert_eq!(position, LONG);
    assert!(parts >= LONG / (16 << 10), "{parts}");
    assert_eq!(rest(&mut reader), ["next\n"]);
}

#[test]
fn l01_bytes_that_are_no_text_become_valid_records() {
    let log = log();
    let mut writer = Writer::open(&log.path, unbounded()).unwrap();
    for length in [(16 << 10) - 1, 16 << 10, (16 << 10) + 1, 32 << 10] {
        let mut line = vec![0xff; length];
        line.push(b'\n');
        writer.write(Stream::Stderr, &line, at(1)).unwrap();
        let joined: String = lines(&log.path, ReadSpec::default()).concat();
        let last = joined.lines().last().unwrap();
        assert_eq!(last.chars().count(), length);
        assert!(last.chars().all(|c| c == '\u{fffd}'));
    }
}

#[test]
fn l02_a_flood_never_exceeds_the_cap_and_the_newest_is_kept() {
    let log = log();
    let options = Options { max_size: 100_000, max_file: 3, compress: false };
    let mut writer = Writer::open(&log.path, options).unwrap();
    let record = 200;
    for number in 0..50_000 {
        writer.write(Stream::Stdout, format!("{number:0100}\n").as_bytes(), at(1)).unwrap();
        if number % 1000 == 0 {
            let folder = log.path.parent().unwrap();
            let all =
                std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
            let (mut files, mut total) = (0, 0);
            all.for_each(|size| (files, total) = (files + 1, total + size));
            assert!(files <= 3 && total <= 300_000 + record, "{files} files, {total} bytes");
        }
    }
    let kept: Vec<usize> =
        lines(&log.path, ReadSpec::default()).iter().map(|l| l.trim().parse().unwrap()).collect();
    assert_eq!(kept.last(), Some(&49_999));
    assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]) && kept.len() > 1000, "{}", kept.len());
}

#[test]
fn l03_a_follower_slower_than_the_writer_loses_only_dropped_files() {
    for compress in [false, true] {
        let log = log();
        let mut writer = Writer::open(&log.path, Options { max_size: 2_000, max_file: 3, compress }).unwrap();
        let mut reader = Reader::open(&log.path, ReadSpec::default()).unwrap();
        let (mut seen, mut written) = (Vec::<usize>::new(), 0);
        for round in 0..200 {
            // Sometimes less than a file, sometimes more than all of them.
            for _ in 0..[3, 10, 40, 150][round % 4] {
                writer.write(Stream::Stdout, format!("{written}\n").as_bytes(), at(1)).unwrap();
                written += 1;
            }
            let kept = lines(&log.path, ReadSpec::default());
            let oldest: usize = kept[0].trim().parse().unwrap();
            let expected = seen.last().map_or(0, |last| last + 1).max(oldest);
            let fresh: Vec<usize> =
                rest(&mut reader).iter().map(|line| line.trim().parse().unwrap()).collect();
            // What is still in a file comes without a gap; what the reader holds open may be older.
            assert!(fresh[0] <= expected, "round {round}: {} after {:?}", fresh[0], seen.last());
            let gaps: Vec<_> = fresh.windows(2).filter(|pair| pair[0] + 1 != pair[1]).collect();
            assert!(
                gaps.iter().all(|pair| pair[1] <= oldest && pair[0] < pair[1]),
                "round {round}: {gaps:?}"
            );
            assert!(seen.last().is_none_or(|last| *last < fresh[0]), "a line came twice");
            assert_eq!(*fresh.last().unwrap(), written - 1, "the follower hangs behind");
            seen.extend(fresh);
        }
    }
}

#[test]
fn l04_a_torn_record_is_skipped_wherever_the_write_broke() {
    let whole = {
        let log = log();
        let mut writer = Writer::open(&log.path, unbounded()).unwrap();
        writer.write(Stream::Stdout, b"torn \"\\ \xc3\xa9\n", at(1)).unwrap();
        std::fs::read(&log.path).unwrap()
    };
    for length in 0..whole.len() {
        let log = log();
        Writer::open(&log.path, unbounded()).unwrap().write(Stream::Stdout, b"before\n", at(1)).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(&log.path).unwrap();
        file.write_all(&whole[..length]).unwrap();
        // A reader that was there meanwhile waits for the rest of it and gets what comes after.
        let mut reader = Reader::open(&log.path, ReadSpec::default()).unwrap();
        assert_eq!(rest(&mut reader), ["before\n"], "{length}");
        Writer::open(&log.path, unbounded()).unwrap().write(Stream::Stdout, b"after\n", at(2)).unwrap();
        // Without its newline a record is whole: the writer ends the line.
        let kept = if length + 1 == whole.len() { 3 } else { 2 };
        let all = lines(&log.path, ReadSpec::default());
        assert_eq!((all.len(), all.last().unwrap().as_str()), (kept, "after\n"), "{length}");
        assert_eq!(rest(&mut reader).last().unwrap(), "after\n", "{length}");
        // It says so, unless nothing or everything was written.
        let torn = u64::from(length > 0 && length + 1 < whole.len());
        assert_eq!(reader.skipped(), torn, "{length}");
    }
}

#[test]
fn l02_what_a_full_disk_refuses_is_counted() {
    let log = log();
    // The kernel's own full disk, where the log would be.
    let (mode, full) = (rustix::fs::Mode::from_raw_mode(0o600), rustix::fs::makedev(1, 7));
    let kind = rustix::fs::FileType::CharacterDevice;
    if let Err(error) = rustix::fs::mknodat(rustix::fs::CWD, &log.path, kind, mode, full) {
        println!("SKIP l02: no device that is full: {error}");
        return;
    }
    let mut writer = Writer::open(&log.path, unbounded()).unwrap();
    let many = "line\n".repeat(5_000);
    for _ in 0..3 {
        let error = writer.write(Stream::Stdout, many.as_bytes(), at(1)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }
    assert_eq!(writer.take_lost(), 15_000);
    writer.write(Stream::Stdout, b"unfinished", at(1)).unwrap();
    assert!(writer.flush().is_err());
    assert_eq!((writer.take_lost(), writer.take_lost()), (1, 0));
}
