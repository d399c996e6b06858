//! The log as its users see it: what is written is on disk in Docker's form and reads back, whatever happens.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a failed test")]

mod hostile;

use std::io::Write;
use std::path::{Path, PathBuf};

use havre_base::Timestamp;
use havre_log::{Options, ReadSpec, Reader, Stream, Writer, watch};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

fn unbounded() -> Options {
    Options { max_size: 0, max_file: 1, compress: false }
}

struct Log {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn log() -> Log {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c-json.log");
    Log { _folder: folder, path }
}

fn lines(path: &Path, spec: ReadSpec) -> Vec<String> {
    let mut reader = Reader::open(path, spec).unwrap();
    rest(&mut reader)
}

fn rest(reader: &mut Reader) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        all.push(String::from_utf8(entry.line).unwrap());
    }
    all
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("line {n}\n")).collect()
}

#[test]
fn records_are_dockers_byte_for_byte() {
    let log = log();
    let mut writer = Writer::open(&log.path, unbounded()).unwrap();
    writer.write(Stream::Stdout, b"hello <world>\nsecond", at(0)).unwrap();
    writer.write(Stream::Stderr, b"oops\n", Timestamp::from_nanos(1_500_000_000)).unwrap();
    writer.write(Stream::Stdout, b" half\n", at(2)).unwrap();
    writer.write(Stream::Stdout, b"no newline", at(3)).unwrap();
    writer.flush().unwrap();
    assert_eq!(
        std::fs::read_to_string(&log.path).unwrap(),
        concat!(
            r#"{"log":"hello \u003cworld\u003e\n","stream":"stdout","time":"1970-01-01T00:00:00Z"}"#,
            "\n",
            r#"{"log":"oops\n","stream":"stderr","time":"1970-01-01T00:00:01.5Z"}"#,
            "\n",
            r#"{"log":"second half\n","stream":"stdout","time":"1970-01-01T00:00:02Z"}"#,
            "\n",
            r#"{"log":"no newline","stream":"stdout","time":"1970-01-01T00:00:03Z"}"#,
            "\n",
        )
    );
}

#[test]
fn a_long_line_is_split_at_16_kib_and_its_parts_share_one_time() {
    let log = log();
    let mut writer = Writer::open(&log.path, unbounded()).unwrap();
    for (second, length) in [(1, 10_000), (2, 10_000), (3, 20_000)] {
        writer.write(Stream::Stdout, &vec![b'x'; length], at(second)).unwrap();
    }
    writer.write(Stream::Stdout, b"\nnext\n", at(4)).unwrap();
    let mut reader = Reader::open(&log.path, ReadSpec::default()).unwrap();
    let mut seen = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        seen.push((entry.line.len(), entry.line.ends_with(b"\n"), entry.time));
    }
    assert_eq!(
        seen,
        [
            (16_384, false, at(2)),
            (16_384, false, at(2)),
            (40_000 - 32_768 + 1, true, at(2)),
            (5, true, at(4))
        ]
    );
}

#[test]
fn characters_are_never_split() {
    let log = log();
    let mut writer = Writer::open(&log.path, unbounded()).unwrap();
    let text = "a".to_owned() + &"日".repeat(20_000) + "\n";
    for part in text.as_bytes().chunks(1_001) {
        writer.write(Stream::Stdout, part, at(1)).unwrap();
    }
    assert_eq!(lines(&log.path, ReadSpec::default()).concat(), text);
}

#[test]
fn any_bytes_can_be_logged() {
    let log = log();
    let mut writer = Writer::open(&log.path, unbounded()).unwrap();
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..200_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect();
    for part in noise.chunks(777) {
        writer.write(Stream::Stdout, part, at(1)).unwrap();
    }
    writer.flush().unwrap();
    let text = std::fs::read_to_string(&log.path).unwrap();
    let back: Vec<u8> = lines(&log.path, ReadSpec::default()).concat().into_bytes();
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    // Go replaces every invalid byte by itself; so do we.
    let mut expected = String::new();
    for chunk in noise.utf8_chunks() {
        expected.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|_| expected.push('\u{fffd}'));
    }
    assert!(back == expected.into_bytes());
}

#[test]
fn a_torn_last_line_is_skipped_and_costs_nothing_else() {
    let log = log();
    Writer::open(&log.path, unbounded()).unwrap().write(Stream::Stdout, b"one\n", at(1)).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&log.path).unwrap();
    file.write_all(br#"{"log":"tor"#).unwrap();
    assert_eq!(lines(&log.path, ReadSpec::default()), ["one\n"]);
    Writer::open(&log.path, unbounded()).unwrap().write(Stream::Stdout, b"two\n", at(2)).unwrap();
    file.write_all(&[0; 5000]).unwrap();
    Writer::open(&log.path, unbounded()).unwrap().write(Stream::Stdout, b"three\n", at(3)).unwrap();
    file.write_all(&vec![b'x'; 3 << 20]).unwrap();
    Writer::open(&log.path, unbounded()).unwrap().write(Stream::Stdout, b"four\n", at(3)).unwrap();
    assert_eq!(lines(&log.path, ReadSpec::default()), ["one\n", "two\n", "three\n", "four\n"]);
    assert_eq!(lines(&log.path, ReadSpec { tail: Some(1), ..ReadSpec::default() }), ["four\n"]);
}

#[test]
fn files_are_bounded_in_size_and_number() {
    for compress in [false, true] {
        let log = log();
        let options = Options { max_size: 1_000, max_file: 3, compress };
        let mut writer = Writer::open(&log.path, options).unwrap();
        for line in numbers(0..200) {
            writer.write(Stream::Stdout, line.as_bytes(), at(1)).unwrap();
        }
        let mut names: Vec<String> = std::fs::read_dir(log.path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = if compress {
            ["c-json.log", "c-json.log.1.gz", "c-json.log.2.gz"]
        } else {
            ["c-json.log", "c-json.log.1", "c-json.log.2"]
        };
        assert_eq!(names, expected);
        assert!(std::fs::metadata(&log.path).unwrap().len() <= 1_000);
        let seen = lines(&log.path, ReadSpec::default());
        assert!(seen.len() > 30, "{}", seen.len());
        assert_eq!(seen, numbers(200 - seen.len()..200));
        for tail in [0, 1, 5, 20, 1_000] {
            let kept = tail.min(seen.len());
            assert_eq!(
                lines(&log.path, ReadSpec { tail: Some(tail), ..ReadSpec::default() }),
                numbers(200 - kept..200)
            );
        }
    }
}

#[test]
fn one_large_write_is_rotated_between_its_lines() {
    let log = log();
    let mut writer =
        Writer::open(&log.path, Options { max_size: 2_000, max_file: 50, compress: false }).unwrap();
    writer.write(Stream::Stdout, numbers(0..500).concat().as_bytes(), at(1)).unwrap();
    assert_eq!(lines(&log.path, ReadSpec::default()), numbers(0..500));
    for entry in std::fs::read_dir(log.path.parent().unwrap()).unwrap() {
        assert!(entry.unwrap().metadata().unwrap().len() <= 2_000);
    }
}

#[test]
fn with_one_file_the_old_text_goes() {
    let log = log();
    let mut writer = Writer::open(&log.path, Options { max_size: 300, max_file: 1, compress: true }).unwrap();
    let mut reader = Reader::open(&log.path, ReadSpec::default()).unwrap();
    let mut followed = Vec::new();
    for line in numbers(0..50) {
        writer.write(Stream::Stdout, line.as_bytes(), at(1)).unwrap();
        followed.extend(rest(&mut reader));
    }
    assert_eq!(followed, numbers(0..50));
    assert!(lines(&log.path, ReadSpec::default()).len() < 5);
}

#[test]
fn a_follower_sees_every_line_once_through_rotations() {
    for compress in [false, true] {
        for stride in [1, 7, 25, 40] {
            let log = log();
            let mut reader = Reader::open(&log.path, ReadSpec::default()).unwrap();
            let mut writer =
                Writer::open(&log.path, Options { max_size: 800, max_file: 6, compress }).unwrap();
            let mut seen = Vec::new();
            for line in 0..200 {
                writer.write(Stream::Stdout, format!("line {line}\n").as_bytes(), at(1)).unwrap();
                if line % stride == 0 {
                    seen.extend(rest(&mut reader));
                }
            }
            seen.extend(rest(&mut reader));
            assert_eq!(seen, numbers(0..200), "stride {stride}, compress {compress}");
        }
    }
}

#[test]
fn a_follower_beside_a_busy_writer_sees_every_line_once() {
    let log = log();
    let path = log.path.clone();
    let count = 20_000;
    let writer = std::thread::spawn(move || {
        let mut writer =
            Writer::open(&path, Options { max_size: 50_000, max_file: 100, compress: false }).unwrap();
        for line in 0..count {
            writer.write(Stream::Stdout, format!("line {line}\n").as_bytes(), at(1)).unwrap();
        }
    });
    let changed = watch(&log.path).unwrap();
    let mut reader = Reader::open(&log.path, ReadSpec::default()).unwrap();
    let mut seen = 0;
    while seen < count {
        match reader.next().unwrap() {
            Some(entry) => {
                assert_eq!(entry.line, format!("line {seen}\n").as_bytes());
                seen += 1;
            }
            None => {
                let mut poll = [rustix::event::PollFd::new(&changed, rustix::event::PollFlags::IN)];
                let limit = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
                assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1), "no event after line {seen}");
                changed.drain().unwrap();
            }
        }
    }
    writer.join().unwrap();
}

#[test]
fn since_until_and_tail_choose_records() {
    let log = log();
    let mut writer = Writer::open(&log.path, unbounded()).unwrap();
    for second in 0..10 {
        writer.write(Stream::Stdout, format!("line {second}\n").as_bytes(), at(second)).unwrap();
    }
    let spec = |since: Option<i64>, until: Option<i64>, tail| ReadSpec {
        since: since.map(at),
        until: until.map(at),
        tail,
    };
    assert_eq!(lines(&log.path, spec(Some(7), None, None)), numbers(7..10));
    assert_eq!(lines(&log.path, spec(None, Some(2), None)), numbers(0..3));
    assert_eq!(lines(&log.path, spec(Some(4), Some(8), Some(4))), numbers(6..9));
    let mut reader = Reader::open(&log.path, spec(None, Some(2), None)).unwrap();
    assert!(!reader.finished());
    assert_eq!(rest(&mut reader).len(), 3);
    assert!(reader.finished());
}

#[test]
fn a_log_cut_short_by_someone_else_is_read_from_its_start() {
    let log = log();
    let mut writer = Writer::open(&log.path, unbounded()).unwrap();
    let mut reader = Reader::open(&log.path, ReadSpec::default()).unwrap();
    writer.write(Stream::Stdout, b"a long first line\nand another\n", at(1)).unwrap();
    assert_eq!(rest(&mut reader).len(), 2);
    std::fs::OpenOptions::new().write(true).open(&log.path).unwrap().set_len(0).unwrap();
    writer.write(Stream::Stdout, b"new\n", at(2)).unwrap();
    assert_eq!(rest(&mut reader), ["new\n"]);
}

#[test]
fn a_link_in_place_of_the_log_is_refused() {
    let log = log();
    std::os::unix::fs::symlink("/etc/passwd", &log.path).unwrap();
    assert!(Writer::open(&log.path, unbounded()).is_err());
    assert!(Reader::open(&log.path, ReadSpec::default()).is_err());
}

/// Not a test of correctness: `cargo test --release -p havre-log -- --ignored --nocapture throughput`.
#[test]
#[ignore = "measures"]
fn throughput() {
    let log = log();
    for (name, line) in [("80 bytes", "x".repeat(79) + "\n"), ("20 bytes", "y".repeat(19) + "\n")] {
        let mut writer = Writer::open(&log.path, Options::default()).unwrap();
        let chunk = line.repeat(65_536 / line.len());
        let started = std::time::Instant::now();
        let rounds = 4_000;
        for round in 0..rounds {
            writer.write(Stream::Stdout, chunk.as_bytes(), Timestamp::from_nanos(round * 1_234_567)).unwrap();
        }
        let seconds = started.elapsed().as_secs_f64();
        let bytes =
            f64::from(u32::try_from(chunk.len()).unwrap()) * f64::from(u32::try_from(rounds).unwrap());
        println!("{name}: {:.0} MB/s of text", bytes / seconds / 1e6);
        let started = std::time::Instant::now();
        let mut reader = Reader::open(&log.path, ReadSpec::default()).unwrap();
        let mut entry = havre_log::Entry::default();
        let mut text = 0_usize;
        while reader.read_into(&mut entry).unwrap() {
            text += entry.line.len();
        }
        println!(
            "{name}: read {:.0} MB/s",
            f64::from(u32::try_from(text).unwrap()) / started.elapsed().as_secs_f64() / 1e6
        );
    }
}
