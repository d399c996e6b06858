//! The API spoken badly: slow, truncated, pipelined, smuggled, oversized and nonsensical requests.
//!
//! Names carry the ids of the attacks.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use crate::Test;
use crate::libraries::{bounded, python};
use crate::raw::{Raw, ask, port};
use crate::world::World;

pub(crate) const ALL: &[Test] = &[
    ("a01 a body cannot hide behind a length of nothing", a01_hidden_body),
    ("a02 bodies are bounded", a02_large_bodies),
    ("a03 one reading of JSON: no duplicates, no depth, the field named", a03_one_reading),
    ("a04 smuggled, flooded and half-sent requests", a04_smuggling),
    ("a07 paths have one reading", a07_paths),
    ("a08 absurd numbers name their field", a08_numbers),
    ("a09 filters are bounded", a09_filters),
    ("a10 clients that do not read, half-close or vanish cost nothing", a10_vanishing_clients),
    ("a11 an exec ends with its process, whoever keeps its output", a11_background_child),
    ("a14 requests generated from the API definition", a14_generated),
    ("many requests on one connection, and many at once", pipelined),
];

const CREATE: &str = "/v1.56/containers/create";

fn create(world: &World, body: &str) -> crate::raw::Answer {
    ask(world, "POST", CREATE, body)
}

fn count(world: &World) -> usize {
    let list = ask(world, "GET", "/containers/json?all=1", "");
    serde_json::from_str::<serde_json::Value>(&list.body).unwrap().as_array().unwrap().len()
}

fn alive(world: &World) {
    assert_eq!(ask(world, "GET", "/_ping", "").body, "OK");
}

fn a01_hidden_body(world: &World) {
    let before = count(world);
    let body = r#"{"Image":"e2e/busybox","HostConfig":{"NetworkMode":"none"}}"#;
    let mut raw = Raw::connect(world);
    raw.send(format!("POST {CREATE} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n{body}"));
    let first = raw.answer().unwrap();
    assert_eq!(first.status, 400, "{first:?}");
    assert!(first.body.contains("EOF"), "{first:?}");
    // The hidden body is no request: the daemon says so and hangs up.
    assert!(raw.answer().is_none_or(|next| next.status == 400));
    assert_eq!(count(world), before);
}

fn a02_large_bodies(world: &World) {
    let before = count(world);
    for mib in [1_usize, 3] {
        let filler = "x".repeat(mib << 20);
        let answer = create(world, &format!("{{\"Image\":\"nope\",\"Unknown\":\"{filler}\"}}"));
        assert_eq!(answer.status, 404, "{mib} MiB: {}", answer.body);
    }
    for mib in [4_usize, 5, 64] {
        let mut raw = Raw::connect(world);
        let length = (mib << 20) + 64;
        raw.send(format!(
            "POST {CREATE} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{{\"Image\":\""
        ));
        // What is too long is refused before it is sent.
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..mib {
            raw.send(&piece);
        }
        let answer = raw.answer().expect("an answer before the connection ends");
        assert_eq!(answer.status, 413, "{mib} MiB: {}", answer.body);
    }
    // Without a length nobody knows, so it is counted.
    let mut raw = Raw::connect(world);
    raw.send(format!("POST {CREATE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"));
    let piece = format!("{:x}\r\n{}\r\n", 1 << 20, "y".repeat(1 << 20));
    for _ in 0..8 {
        raw.send(&piece);
    }
    assert_eq!(raw.answer().expect("an answer").status, 413);
    assert_eq!(count(world), before);
    alive(world);
}

fn a03_one_reading(world: &World) {
    let before = count(world);
    for (body, wanted) in [
        (r#"{"Image":"a","Image":"e2e/busybox"}"#, "Image"),
        (r#"{"Image":"e2e/busybox","HostConfig":{},"HostConfig":{"Privileged":true}}"#, "HostConfig"),
        (r#"{"Image":"e2e/busybox","HostConfig":{"Privileged":false,"Privileged":true}}"#, "Privileged"),
        (r#"{"Image":5}"#, "Image"),
        (r#"{"Image":"a","HostConfig":{"Memory":"much"}}"#, "HostConfig.Memory"),
        (r#"{"Image":"a","HostConfig":{"Devices":[{"PathOnHost":3}]}}"#, "HostConfig.Devices[0].PathOnHost"),
        (r#"{"Image":"a","Labels":["x"]}"#, "Labels"),
        (r#"{"Image":"a","Env":{"A":"1"}}"#, "Env"),
        ("{", "EOF"),
        ("", "EOF"),
        ("null", ""),
        ("[]", ""),
        ("\"x\"", ""),
        ("{\"Image\":\"a\"} trailing", "trailing"),
        ("{\"Image\":\"\u{0}\"}", ""),
    ] {
        let answer = create(world, body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let message: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert!(message["message"].as_str().unwrap().contains(wanted), "{body}: {message}");
    }
    let deep = format!("{{\"Unknown\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(create(world, &deep).status, 400);
    assert_eq!(count(world), before);
    alive(world);
}

fn a04_smuggling(world: &World) {
    let before = count(world);
    let body = r#"{"Image":"e2e/busybox"}"#;
    let inner = format!("POST {CREATE} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for head in [
        // Two lengths, and a length beside chunks: proxies and servers read these differently.
        format!("Content-Length: 0\r\nContent-Length: {}", inner.len()),
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked", inner.len()),
        "Transfer-Encoding: identity".to_owned(),
        "Transfer-Encoding: chunked, gzip".to_owned(),
        "Content-Length: +5".to_owned(),
        "Content-Length: -1".to_owned(),
        "Content-Length: 99999999999999999999999".to_owned(),
        "Content-Length : 4".to_owned(),
    ] {
        let mut raw = Raw::connect(world);
        raw.send(format!("GET /_ping HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n0\r\n\r\n{inner}")).half_close();
        let text = raw.rest();
        assert!(!text.contains(" 201 "), "{head}: {text}");
    }
    assert_eq!(count(world), before, "no request was smuggled in");
    // Floods of headers.
    let mut many = "GET /_ping HTTP/1.1\r\nHost: x\r\n".to_owned();
    for number in 0..5_000 {
        write!(many, "X-{number}: y\r\n").unwrap();
    }
    let mut raw = Raw::connect(world);
    let status = raw.send(many + "\r\n").answer().map(|answer| answer.status);
    assert!(matches!(status, Some(400 | 431) | None), "{status:?}");
    let mut raw = Raw::connect(world);
    raw.send(format!("GET /_ping HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "z".repeat(2 << 20)));
    let status = raw.answer().map(|answer| answer.status);
    assert!(matches!(status, Some(400 | 431) | None), "{status:?}");
    // What is no HTTP at all.
    for garbage in [
        "\0\0\0\0\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00",
        "GET\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut raw = Raw::connect(world);
        let text = raw.send(garbage).half_close().rest();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{garbage:?}: {text}");
    }
    // Half a request, half a body, and a hundred that never say more, while others are served.
    let waiting: Vec<Raw> = (0..100)
        .map(|_| {
            let mut raw = Raw::connect(world);
            raw.send("GET /_ping HTTP/1.1\r\nHo");
            raw
        })
        .collect();
    alive(world);
    drop(waiting);
    let mut raw = Raw::connect(world);
    raw.send(format!(
        "POST {CREATE} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{\"Image\":\"e2e/busy"
    ));
    let text = raw.half_close().rest();
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 400"), "{text}");
    assert_eq!(count(world), before);
    alive(world);
}

fn a07_paths(world: &World) {
    for (path, status) in [
        ("/v1.24/../containers/json", 404),
        ("/containers/../../etc/passwd", 404),
        ("/containers/%2e%2e/json", 404),
        ("/containers/..%2f..%2fetc/json", 404),
        ("/containers/a%00b/json", 404),
        ("/v999/info", 404),
        ("/v1.999/info", 400),
        ("/v1.23/info", 400),
        ("/v0.1/info", 400),
        ("/V1.24/info", 404),
        ("/v1.24//containers//json", 200),
        ("/v1.24/containers/json/", 200),
        ("/containers/json;x=1", 404),
        ("/containers//start", 404),
        ("/nope", 404),
        ("*", 404),
    ] {
        let answer = ask(world, "GET", path, "");
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    let long = format!("/containers/{}/json", "a".repeat(40_000));
    assert_eq!(ask(world, "GET", &long, "").status, 404);
    for method in ["PATCH", "OPTIONS", "TRACE", "BREW", "get"] {
        let answer = ask(world, method, "/containers/json", "");
        assert!(matches!(answer.status, 400 | 404 | 405), "{method}: {answer:?}");
    }
    for name in ["..", ".", "-x", "a/b", "a b", "é", "", "a"] {
        let name = name.replace(' ', "%20").replace('/', "%2f").replace('é', "%c3%a9");
        if name.is_empty() {
            continue;
        }
        let path = format!("{CREATE}?name={name}");
        let body = r#"{"Image":"e2e/busybox","HostConfig":{"NetworkMode":"none"}}"#;
        let answer = ask(world, "POST", &path, body);
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
    }
}

fn a08_numbers(world: &World) {
    let before = count(world);
    for (host, field) in [
        (r#""Memory":-1"#, "memory"),
        (r#""Memory":1"#, "memory"),
        (r#""Memory":9223372036854775808"#, "Memory"),
        (r#""Memory":1e309"#, ""),
        (r#""Memory":1.5"#, "Memory"),
        (r#""Memory":NaN"#, ""),
        (r#""MemorySwap":-5,"Memory":67108864"#, "swap"),
        (r#""NanoCpus":-1"#, "cpu"),
        (r#""NanoCpus":9223372036854775807"#, "cpu"),
        (r#""CpuShares":-1"#, "shares"),
        (r#""CpuPeriod":5"#, "period"),
        (r#""CpuQuota":5"#, "quota"),
        (r#""CpusetCpus":"0-99999""#, "cpu"),
        (r#""CpusetCpus":"x""#, "cpu"),
        (r#""PidsLimit":-7"#, "pids"),
        (r#""BlkioWeight":9"#, "weight"),
        (r#""BlkioWeight":70000"#, "BlkioWeight"),
        (r#""OomScoreAdj":1001"#, "oom"),
        (r#""ShmSize":-1"#, "shm"),
        (r#""MemorySwappiness":101"#, "swappiness"),
        (r#""Ulimits":[{"Name":"nofile","Soft":-2,"Hard":-2}]"#, "nofile"),
        (r#""Ulimits":[{"Name":"nofile","Soft":10,"Hard":5}]"#, "hard limit"),
        (r#""Ulimits":[{"Name":"nope","Soft":1,"Hard":1}]"#, "nope"),
        (r#""RestartPolicy":{"Name":"on-failure","MaximumRetryCount":-1}"#, "retry"),
        (r#""ConsoleSize":[-1,5]"#, "ConsoleSize"),
        (r#""KernelMemoryTCP":-1"#, "kernel"),
    ] {
        let body =
            format!("{{\"Image\":\"e2e/busybox\",\"HostConfig\":{{\"NetworkMode\":\"none\",{host}}}}}");
        let answer = create(world, &body);
        assert!(matches!(answer.status, 400 | 501), "{host}: {answer:?}");
        let message = answer.body.to_ascii_lowercase();
        assert!(message.contains(&field.to_ascii_lowercase()), "{host}: {message}");
    }
    for path in [
        "/containers/json?limit=x",
        "/containers/nobody/stop?t=99999999999999999999",
        "/containers/json?filters=%7B%22exited%22%3A%5B%22x%22%5D%7D",
        "/containers/json?filters=%7B",
        "/containers/json?filters=%5B%5D",
        "/events?since=yesterday&until=1",
    ] {
        let method = if path.contains("stop") { "POST" } else { "GET" };
        let answer = ask(world, method, path, "");
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
    assert_eq!(count(world), before, "nothing was half created");
}

fn a09_filters(world: &World) {
    let escape = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    // Patterns that take ages where matching goes back.
    for pattern in ["(a+)+$", "(((((a*)*)*)*)*)*b", "a{1000}{1000}", "(", "[", &"(".repeat(500)] {
        let filters = serde_json::json!({ "name": [pattern] }).to_string();
        let answer = ask(world, "GET", &format!("/containers/json?all=1&filters={}", escape(&filters)), "");
        assert!(matches!(answer.status, 200 | 400), "{pattern}: {answer:?}");
    }
    let many: Vec<String> = (0..500).map(|number| format!("l{number}")).collect();
    let filters = serde_json::json!({ "label": many }).to_string();
    let answer = ask(world, "GET", &format!("/containers/json?filters={}", escape(&filters)), "");
    assert!(matches!(answer.status, 200 | 400 | 414 | 431), "{answer:?}");
    let deep = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
    assert_eq!(ask(world, "GET", &format!("/containers/json?filters={}", escape(&deep)), "").status, 400);
    alive(world);
}

/// Open descriptors, threads and private memory (KiB) of the daemon.
fn cost(world: &World) -> (usize, usize, u64) {
    let process = Path::new("/proc").join(world.daemon_pid().to_string());
    let entries = |name: &str| std::fs::read_dir(process.join(name)).unwrap().count();
    let rollup = std::fs::read_to_string(process.join("smaps_rollup")).unwrap();
    let private = rollup
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    (entries("fd"), entries("task"), private)
}

/// The daemon's descriptors once everything that is closing has closed.
#[expect(
    clippy::disallowed_methods,
    reason = "closing is the daemon's reaction to ours; it has no event that we could see"
)]
fn settled(world: &World, wanted: usize) -> usize {
    for _ in 0..200 {
        if cost(world).0 <= wanted {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    cost(world).0
}

fn a10_vanishing_clients(world: &World) {
    let client = &world.clients()[0];
    let name = "clients-vanishing";
    let chatty = "while :; do echo 0123456789012345678901234567890123456789; done";
    let start =
        ["run", "-d", "--label", "e2e", "--network", "none", "--log-opt", "max-size=1m", "--name", name];
    client.run(&[&start[..], &["e2e/busybox", "sh", "-c", chatty]].concat()).exits(0);
    let exec = |command: &str| {
        let body = format!(r#"{{"AttachStdout":true,"AttachStdin":true,"Cmd":["sh","-c","{command}"]}}"#);
        let made = ask(world, "POST", &format!("/containers/{name}/exec"), &body);
        let id: serde_json::Value = serde_json::from_str(&made.body).unwrap();
        id["Id"].as_str().unwrap().to_owned()
    };
    let round = |rounds: usize| {
        for number in 0..rounds {
            let paths = [
                format!("POST /containers/{name}/attach?stream=1&stdout=1&stdin=1"),
                format!("GET /containers/{name}/logs?follow=1&stdout=1"),
                "GET /events".to_owned(),
                format!("GET /containers/{name}/stats"),
                format!("POST /containers/{name}/wait"),
                "GET /containers/json?all=1".to_owned(),
                format!("GET /containers/{name}/json"),
            ];
            for path in paths {
                let mut raw = Raw::connect(world);
                let upgrade =
                    if path.contains("attach") { "Connection: Upgrade\r\nUpgrade: tcp\r\n" } else { "" };
                raw.send(format!("{path} HTTP/1.1\r\nHost: x\r\n{upgrade}Content-Length: 0\r\n\r\n"));
                match number % 3 {
                    // Vanishes without reading, half-closes and vanishes, or reads a little first.
                    0 => {}
                    1 => drop(raw.half_close()),
                    _ => drop(raw.answer()),
                }
            }
        }
    };
    let attached = |count: usize| {
        for _ in 0..count {
            let id = exec("cat");
            let mut raw = Raw::connect(world);
            let body = r#"{"Detach":false,"Tty":false}"#;
            raw.send(format!(
                "POST /exec/{id}/start HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
            assert!(raw.answer().is_some());
        }
    };
    round(30);
    attached(5);
    let before = cost(world);
    let limit = settled(world, before.0.min(60));
    round(1_400);
    attached(50);
    let after = settled(world, limit);
    let (_, threads, memory) = cost(world);
    assert!(after <= limit + 4, "descriptors grew from {limit} to {after}");
    assert!(threads <= before.1 + 8, "threads grew from {} to {threads}", before.1);
    assert!(memory <= before.2 + 12 * 1024, "private memory grew from {} to {memory} KiB", before.2);
    let running = client.run(&["inspect", "-f", "{{.State.Running}} {{.ExecIDs}}", name]).exits(0);
    assert!(running.starts_with("true"), "{running}");
    client.run(&["rm", "-f", name]).exits(0);
    alive(world);
}

fn a11_background_child(world: &World) {
    let client = &world.clients()[0];
    let name = "clients-background";
    let start = ["run", "-d", "--label", "e2e", "--network", "none", "--name", name];
    client.run(&[&start[..], &["e2e/busybox", "sleep", "1000"]].concat()).exits(0);
    for client in world.clients() {
        // The child keeps standard output for longer than the client's patience.
        let outcome = client.run(&["exec", name, "sh", "-c", "sleep 900 & echo said; exit 3"]);
        assert_eq!((outcome.out.as_str(), outcome.code), ("said\n", 3), "{}", client.name);
    }
    client.run(&["rm", "-f", name]).exits(0);
}

fn a14_generated(world: &World) {
    let Some(python) = python() else { return };
    let client = &world.clients()[0];
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let definition = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xtask/data/docker-engine-api.yaml");
    let address = port(world);
    // The hooks keep endless answers short; the phase that covers every parameter does not ask them. What asks a registry
    // has no registry here, which is a documented 500.
    let endless = "/(build|session|grpc|auth|events|wait|images/(load|search|create)|push|distribution)";
    let streams = "/(build|session|grpc|auth|events|wait|images/(load|search|create)|push|distribution|stats|logs|attach|exec/.*/start)";
    for (version, phases, without) in [("1.24", "fuzzing", endless), ("1.56", "coverage", streams)] {
        for (name, command) in [("fuzzed-running", "sleep 1000"), ("fuzzed-created", "true")] {
            let body = format!(
                r#"{{"Image":"e2e/busybox","Cmd":["sh","-c","{command}"],"Labels":{{"e2e":""}},"HostConfig":{{"NetworkMode":"none"}}}}"#
            );
            ask(world, "DELETE", &format!("/containers/{name}?force=1"), "");
            let made = ask(world, "POST", &format!("{CREATE}?name={name}"), &body);
            assert_eq!(made.status, 201, "{made:?}");
        }
        assert_eq!(ask(world, "POST", "/containers/fuzzed-running/start", "").status, 204);
        let tool = python.parent().unwrap().join("schemathesis");
        let mut command = bounded(&tool, "580");
        command
            .arg("--config-file")
            .arg(here.join("schemathesis.toml"))
            .arg("run")
            .arg(&definition)
            .args(["--url", &format!("http://{address}/v{version}")])
            .args(["--include-tag", "Container", "--include-tag", "Exec"])
            .args(["--include-tag", "System", "--include-tag", "Image"])
            .args(["--exclude-path-regex", without])
            .args(["--checks", "not_a_server_error", "--request-timeout", "30"])
            .args(["--phases", phases, "-n", "15", "--no-color", "--seed", "1"])
            .current_dir(world.folder())
            .env("SCHEMATHESIS_HOOKS", "schema_hooks")
            .env("PYTHONPATH", &here)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null());
        let output = command.output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "API {version}: {}", &text[text.len().saturating_sub(6_000)..]);
        alive(world);
    }
    // What the requests created goes, the test image stays.
    let all = client.run(&["ps", "-aq"]).exits(0);
    let ids: Vec<&str> = all.split_whitespace().collect();
    if !ids.is_empty() {
        client.run(&[&["rm", "-f"][..], &ids].concat()).exits(0);
    }
    client.run(&["run", "--rm", "--network", "none", "e2e/busybox", "true"]).exits(0);
    assert!(!world.log().contains("panicked"), "the daemon panicked");
}

fn pipelined(world: &World) {
    let mut raw = Raw::connect(world);
    let one = "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n";
    raw.send(one.repeat(2_000));
    for number in 0..2_000 {
        let answer = raw.answer().unwrap_or_else(|| panic!("answer {number} is missing"));
        assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
    }
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut raw = Raw::connect(world);
                for _ in 0..1_000 {
                    raw.send("GET /containers/json HTTP/1.1\r\nHost: x\r\n\r\n");
                    assert_eq!(raw.answer().expect("an answer").status, 200);
                }
            });
        }
    });
}
