//! Names: how many answers a second a container gets from the name server of its network.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::engine::Engine;
use crate::process;

/// The chore that asks, which is run where a container is.
pub(crate) const ASK: &str = "ask-names";

const SERVER: &str = "127.0.0.11:53";
const NETWORK: &str = "bench-names";
const WEB: &str = "bench-names-web";
const ASKER: &str = "bench-names-asker";
const ASKERS: u16 = 4;
/// Questions of one asker that wait for their answers.
const WINDOW: u16 = 16;
const SECONDS: u64 = 2;

/// Answers a second, asked from inside a container by several askers at once.
pub(super) fn answers(engine: &Engine, _: &Path) -> Result<f64> {
    if engine.client(&["inspect", ASKER]).is_err() {
        engine.client(&["network", "create", NETWORK])?;
        for name in [WEB, ASKER] {
            engine.client(&[
                "run",
                "-d",
                "--name",
                name,
                "--network",
                NETWORK,
                "busybox",
                "sleep",
                "100000",
            ])?;
        }
    }
    let pid = engine.client(&["inspect", "-f", "{{.State.Pid}}", ASKER])?;
    let mut asking = Command::new("nsenter");
    asking.args(["--net", "--target", pid.trim()]).arg(std::env::current_exe()?).args([ASK, WEB]);
    process::output(&mut asking)?.trim().parse().context("no number of answers")
}

/// Asks for a name as fast as it is answered, and returns answers a second.
pub(crate) fn ask(name: &str) -> Result<f64> {
    let started = Instant::now();
    let askers: Vec<_> = (0..ASKERS)
        .map(|_| {
            let name = name.to_owned();
            std::thread::spawn(move || one(&name))
        })
        .collect();
    let mut answers = 0;
    for asker in askers {
        answers += asker.join().map_err(|_| anyhow::anyhow!("an asker panicked"))??;
    }
    Ok(f64::from(answers) / started.elapsed().as_secs_f64())
}

fn one(name: &str) -> Result<u32> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(SERVER)?;
    socket.set_read_timeout(Some(Duration::from_secs(SECONDS)))?;
    let mut question = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len())?];
    question.extend(name.as_bytes());
    question.extend([0, 0, 1, 0, 1]);
    let mut send = |number: u16| -> Result<()> {
        if let Some(place) = question.first_chunk_mut::<2>() {
            *place = number.to_be_bytes();
        }
        socket.send(&question).map(drop).context("cannot ask")
    };
    (0..WINDOW).try_for_each(&mut send)?;
    let (mut buffer, mut answers) = ([0; 512], 0);
    let end = Instant::now() + Duration::from_secs(SECONDS);
    while Instant::now() < end {
        let length = socket.recv(&mut buffer).context("no answer")?;
        match buffer.get(..length) {
            // Its number, no failure, one address.
            Some([high, low, _, code, _, _, 0, 1, ..]) if code & 15 == 0 => {
                answers += 1;
                send(u16::from_be_bytes([*high, *low]))?;
            }
            other => bail!("not the answer: {other:?}"),
        }
    }
    Ok(answers)
}
