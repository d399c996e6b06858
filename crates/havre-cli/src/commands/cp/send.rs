//! From this machine into a container.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use havre_archive::ArchiveError;
use havre_archive::pack::Packer;
use havre_client::RequestBody;
use rustix::fs::{Mode, OFlags};
use tokio::sync::mpsc;

use super::paths::{Source, Target, absolute, plan, source};
use super::{Copy, DEVICE, FOLDER, IRREGULAR};
use crate::failure::Failure;

const PIECE: usize = 256 << 10;

/// A body, as a writer.
struct Upload {
    out: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
    count: Arc<AtomicU64>,
}

impl Upload {
    fn pass(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        self.count.fetch_add(u64::try_from(piece.len()).unwrap_or(0), Ordering::Relaxed);
        self.out.blocking_send(Ok(Bytes::from(piece))).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.capacity() == 0 {
            self.piece.reserve_exact(PIECE);
        }
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() >= PIECE {
            self.pass()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Made = std::thread::JoinHandle<Result<(), Failure>>;

/// Fills a body on a thread of its own.
fn produce(
    count: &Arc<AtomicU64>,
    work: impl FnOnce(&mut Upload) -> Result<(), Failure> + Send + 'static,
) -> io::Result<(RequestBody, Made)> {
    let (out, body) = mpsc::channel(4);
    let mut upload = Upload { out, piece: Vec::new(), count: Arc::clone(count) };
    let thread = std::thread::Builder::new().name("pack".into()).spawn(move || {
        let result = work(&mut upload);
        match &result {
            Ok(()) => upload.pass().unwrap_or(()),
            // The request must not look whole.
            Err(failure) => {
                upload
                    .out
                    .blocking_send(Err(io::Error::other(failure.message.clone())))
                    .map(drop)
                    .unwrap_or(());
            }
        }
        result
    })?;
    Ok((body, thread))
}

fn pack(source: &Source, as_name: &str, out: &mut Upload) -> Result<(), ArchiveError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(&source.folder, flags, Mode::empty()).map_err(ArchiveError::stream)?;
    let mut packer = Packer::new(out);
    if matches!(source.name.as_str(), "." | "/") {
        packer.tree(folder, as_name.as_bytes())?;
    } else {
        let name = CString::new(source.name.clone()).map_err(ArchiveError::stream)?;
        packer.one(folder.as_fd(), &name, as_name.as_bytes())?;
    }
    packer.finish().map(drop)
}

impl Copy<'_> {
    pub(super) async fn send(&self, from: &str, to: &str) -> Result<(), Failure> {
        let from = if from == "-" { None } else { Some(absolute(from)?) };
        let target = self.target_inside(to).await?;
        let count = Arc::new(AtomicU64::new(0));
        let (folder, (body, made)) = match from {
            None if target.exists != Some(true) => {
                let text = format!("destination \"{}:{to}\" must be a directory", self.container);
                return Err(Failure::plain(text));
            }
            None => (
                target.path.clone(),
                produce(&count, |out| {
                    let mut block = vec![0; PIECE];
                    let mut input = io::stdin().lock();
                    loop {
                        let read = input.read(&mut block)?;
                        if read == 0 {
                            return Ok(());
                        }
                        out.write_all(&block[..read])?;
                    }
                })?,
            ),
            Some(from) => {
                let source = source(&from, self.follow)?;
                let (folder, name) = plan(source.is_folder, &target)?;
                let name = name.unwrap_or_else(|| source.as_name.clone());
                let packed = produce(&count, move |out| {
                    pack(&source, &name, out).map_err(|error| Failure::plain(havre_base::chain(&error)))
                })?;
                (folder, packed)
            }
        };
        let sent = self.client.put_archive(self.container, &folder, self.archive, body).await;
        match sent {
            Ok(()) => {
                self.done(count.load(Ordering::Relaxed), &format!("{}:{}", self.container, target.path));
                Ok(())
            }
            // What the daemon says comes first; otherwise the archive may be what broke.
            Err(error) if error.status().is_none() && made.is_finished() => match made.join() {
                Ok(Err(failure)) if !failure.message.is_empty() => Err(failure),
                _ => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// What is at the destination. That it cannot be looked at is no error: it may be made.
    async fn target_inside(&self, to: &str) -> Result<Target, Failure> {
        let mut path = to.to_owned();
        let mut stat = self.stat(to).await;
        if let Ok(found) = &stat
            && let Some(target) = Self::target(to, found)
        {
            stat = self.stat(&target).await;
            path = target;
        }
        let Ok(stat) = stat else { return Ok(Target { path, exists: None }) };
        let what = match stat.mode {
            mode if mode & DEVICE != 0 => "got a device",
            mode if mode & IRREGULAR != 0 => "got an irregular file",
            mode => return Ok(Target { path, exists: Some(mode & FOLDER != 0) }),
        };
        Err(Failure::plain(format!(
            "destination \"{}:{to}\" must be a directory or a regular file: {what}",
            self.container
        )))
    }
}
