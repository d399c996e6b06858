//! `system dial-stdio`: the other end of an ssh connection.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;

use havre_client::Socket;
use tokio::sync::oneshot;

use crate::App;
use crate::failure::Failure;
use crate::spec::{Args, Arity, Command};

pub(super) const DIAL_STDIO: Command = Command {
    names: &["system dial-stdio"],
    arguments: "",
    about: "Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
    flags: &[],
    arity: Arity::None,
    trailing: false,
    examples: &[],
    run: dial,
};

/// Copies until the daemon says its last; the end of our input is told to the daemon and ends nothing else.
fn dial(app: &App, _: &Args) -> Result<u8, Failure> {
    app.block(async {
        let socket = app.client().await?.dial().await?;
        let mut input = socket.try_clone()?;
        let (ended, end) = oneshot::channel();
        // Never joined: it may wait for input for ever and ends with the process.
        std::thread::Builder::new().name("input".into()).spawn(move || {
            let stdin = io::stdin().as_fd().try_clone_to_owned().map(File::from);
            stdin.and_then(|mut stdin| pump(&mut stdin, &mut input)).unwrap_or(());
            input.close_write().unwrap_or(());
        })?;
        std::thread::Builder::new().name("output".into()).spawn(move || {
            ended.send(output(socket)).unwrap_or(());
        })?;
        match end.await {
            Ok(copied) => copied.map(|()| 0).map_err(Failure::from),
            Err(_) => Err(Failure::plain("the connection to the daemon was lost")),
        }
    })
}

fn output(mut socket: Socket) -> io::Result<()> {
    // Our own handle, because the standard library's is buffered by line.
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    pump(&mut socket, &mut stdout)
}

fn pump(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
