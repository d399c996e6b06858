//! A plugin that answers as a test tells it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;

/// A plugin on a unix socket. It goes with this value.
pub struct Scripted {
    socket: PathBuf,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Folders that were made for the socket, the innermost first.
    made: Vec<PathBuf>,
    _folder: Option<tempfile::TempDir>,
}

impl Scripted {
    /// In a folder of its own, with a name. `answer` gets what is asked and its question, and returns status and body.
    ///
    /// # Panics
    ///
    /// Where no socket can be made.
    #[expect(clippy::expect_used, reason = "a fixture that cannot be made fails its test")]
    pub fn start(name: &str, answer: impl Fn(&str, &Value) -> (u16, String) + Send + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut plugin = Self::at(&folder.path().join(format!("{name}.sock")), answer);
        plugin._folder = Some(folder);
        plugin
    }

    /// At a certain place, whose folders are made where they are missing.
    ///
    /// # Panics
    ///
    /// Where no socket can be made.
    #[expect(clippy::expect_used, reason = "a fixture that cannot be made fails its test")]
    pub fn at(socket: &Path, answer: impl Fn(&str, &Value) -> (u16, String) + Send + 'static) -> Self {
        let mut made: Vec<PathBuf> =
            socket.ancestors().skip(1).take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
        if let Some(folder) = socket.parent() {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        made.retain(|folder| folder.exists());
        let listener = UnixListener::bind(socket).expect("a socket");
        let (asked, stop) = (Arc::<Mutex<Vec<(String, Value)>>>::default(), Arc::<AtomicBool>::default());
        let (notes, ends) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::SeqCst) {
                    break;
                }
                // A client that goes away is its own affair.
                serve(&stream, &notes, &answer).ok();
            }
        });
        Self { socket: socket.to_owned(), asked, stop, thread: Some(thread), made, _folder: None }
    }

    /// The folder of its socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.socket.parent().unwrap_or(&self.socket)
    }

    /// What it was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.questions().into_iter().map(|(method, _)| method).collect()
    }

    /// The same with the questions.
    #[must_use]
    pub fn questions(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes it.
        UnixStream::connect(&self.socket).ok();
        std::fs::remove_file(&self.socket).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        for folder in &self.made {
            std::fs::remove_dir(folder).ok();
        }
    }
}

fn serve(
    stream: &UnixStream,
    asked: &Mutex<Vec<(String, Value)>>,
    answer: &impl Fn(&str, &Value) -> (u16, String),
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let method = line.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let question = serde_json::from_slice(&body).unwrap_or(Value::Null);
    asked.lock().unwrap_or_else(PoisonError::into_inner).push((method.clone(), question.clone()));
    let (status, text) = answer(&method, &question);
    let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    (&*stream).write_all(head.as_bytes())?;
    (&*stream).write_all(text.as_bytes())
}
