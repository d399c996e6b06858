//! The state database: one file, one writer thread, group commit.
//!
//! Invariants: what `commit` acknowledged survives a killed process and a power loss; batches take effect
//! whole and in the order they were given; the queue is bounded, so a slow disk slows the callers and
//! does not eat memory. A second process cannot open the same file.
//! Not here: what the records mean. The services answer from memory; this is for their next start.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StoreError;

/// The layout this code writes. A database with a newer one is refused, older ones are migrated.
const FORMAT: u32 = 1;
const META: Table = Table("meta");
/// Pages kept in memory. The services hold the state themselves, so little is read twice.
const CACHE: usize = 4 << 20;
/// Batches waiting for the writer before callers have to wait.
const QUEUE: usize = 1024;
/// Batches written with one sync.
const GROUP: usize = 256;
/// How long batches that nobody waits for may wait for company.
const LINGER: Duration = Duration::from_millis(5);

/// A named set of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table(pub &'static str);

impl Table {
    const fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(self.0)
    }
}

/// Changes that happen together or not at all.
#[derive(Debug, Default)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    changes: Vec<(Table, String, Option<Vec<u8>>)>,
    failed: Option<serde_json::Error>,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a record. A value that cannot be written as JSON makes the commit fail.
    pub fn put(mut self, table: Table, key: &str, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) => self.changes.push((table, key.into(), Some(bytes))),
            Err(error) => self.failed = Some(error),
        }
        self
    }

    /// Removes a record; one that is not there counts as removed.
    pub fn delete(mut self, table: Table, key: &str) -> Self {
        self.changes.push((table, key.into(), None));
        self
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.failed.is_none()
    }
}

/// What is told the outcome of a batch.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Job {
    changes: Vec<(Table, String, Option<Vec<u8>>)>,
    done: Option<Done>,
}

/// The database. Dropping it writes what is still queued.
pub struct Db {
    shared: Arc<Shared>,
    queue: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    path: PathBuf,
    /// Guards the handle against being replaced after a write error; `None` while it cannot be opened.
    database: RwLock<Option<Database>>,
    /// Batches that nobody waited for and that failed; the next commit reports it.
    lost: Mutex<Option<StoreError>>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Db {
    /// Opens the database, making it when it is not there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = open(path)?;
        check_format(&database, path)?;
        let shared = Arc::new(Shared {
            path: path.into(),
            database: RwLock::new(Some(database)),
            lost: Mutex::new(None),
        });
        let (queue, jobs) = sync_channel(QUEUE);
        let for_writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("db".into())
            .stack_size(256 << 10)
            .spawn(move || write_all(&for_writer, &jobs))
            .map_err(|e| StoreError::write(path, e))?;
        Ok(Self { shared, queue: Some(queue), writer: Some(writer) })
    }

    /// All records of a table, by key. A record that does not parse is an error: nothing is skipped silently.
    pub fn load<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, StoreError> {
        let guard = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or_else(|| StoreError::Unavailable(self.shared.path.clone()))?;
        let failed = |error: redb::Error| self.shared.error("cannot read", error);
        let read = database.begin_read().map_err(|e| failed(e.into()))?;
        let records = match read.open_table(table.definition()) {
            Ok(records) => records,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(failed(error.into())),
        };
        let mut all = Vec::new();
        for record in records.iter().map_err(|e| failed(e.into()))? {
            let (key, value) = record.map_err(|e| failed(e.into()))?;
            let parsed = serde_json::from_slice(value.value()).map_err(|source| StoreError::Record {
                table: table.0,
                key: key.value().into(),
                source: Arc::new(source),
            })?;
            all.push((key.value().to_owned(), parsed));
        }
        Ok(all)
    }

    /// Writes `batch` and returns when it is durable, together with whatever else is waiting.
    pub fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let (answer, outcome) = sync_channel(1);
        self.submit(
            batch,
            Box::new(move |result| {
                // The receiver below waits until it has its answer.
                let _sent = answer.send(result);
            }),
        );
        outcome.recv().unwrap_or_else(|_| Err(StoreError::Unavailable(self.shared.path.clone())))
    }

    /// Writes `batch` some time soon, in order with the others. A failure is told to the next `commit`.
    pub fn enqueue(&self, batch: Batch) {
        self.send(batch, None);
    }

    /// As `commit` for those who may not block: `done` is called from the writer thread.
    pub fn submit(&self, batch: Batch, done: Done) {
        self.send(batch, Some(done));
    }

    fn send(&self, batch: Batch, done: Option<Done>) {
        let refused = match (batch.failed, &self.queue) {
            (Some(source), _) => Some((StoreError::Encode(Arc::new(source)), done)),
            (None, Some(queue)) => queue
                .send(Job { changes: batch.changes, done })
                .err()
                .map(|lost| (StoreError::Unavailable(self.shared.path.clone()), lost.0.done)),
            (None, None) => Some((StoreError::Unavailable(self.shared.path.clone()), done)),
        };
        if let Some((error, done)) = refused {
            match done {
                Some(done) => done(Err(error)),
                None => self.shared.remember(error),
            }
        }
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A panicked writer has nothing left to write.
            let _ended = writer.join();
        }
    }
}

impl Shared {
    fn error(&self, what: &'static str, source: redb::Error) -> StoreError {
        StoreError::Database { what, path: self.path.clone(), source: Arc::new(source) }
    }

    fn remember(&self, error: StoreError) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    fn write(&self, group: &[Job]) -> Result<(), StoreError> {
        {
            let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(database) = guard.as_ref() {
                let result = apply(database, group);
                let Err(error) = result else { return Ok(()) };
                let error = self.error("cannot write", error);
                drop(guard);
                self.reopen();
                return Err(error);
            }
        }
        self.reopen();
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or_else(|| StoreError::Unavailable(self.path.clone()))?;
        apply(database, group).map_err(|error| self.error("cannot write", error))
    }

    /// After a failed write (a full disk) the library refuses everything until the file is opened again.
    fn reopen(&self) {
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        drop(guard.take());
        *guard = open(&self.path).ok();
    }
}

fn open(path: &Path) -> Result<Database, StoreError> {
    redb::Builder::new().set_cache_size(CACHE).create(path).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.into()),
        other => {
            StoreError::Database { what: "cannot open", path: path.into(), source: Arc::new(other.into()) }
        }
    })
}

fn check_format(database: &Database, path: &Path) -> Result<(), StoreError> {
    let found = || -> Result<Option<u32>, redb::Error> {
        let read = database.begin_read()?;
        let records = match read.open_table(META.definition()) {
            Ok(records) => records,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(records.get("format")?.map(|value| {
            // What is no number was written by something we do not know.
            std::str::from_utf8(value.value()).ok().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)
        }))
    };
    let failed = |source: redb::Error| StoreError::Database {
        what: "cannot read",
        path: path.into(),
        source: Arc::new(source),
    };
    match found().map_err(failed)? {
        Some(FORMAT) => Ok(()),
        Some(found) => Err(StoreError::Format { path: path.into(), found, known: FORMAT }),
        None => {
            let value = FORMAT.to_string().into_bytes();
            let job = Job { changes: vec![(META, "format".into(), Some(value))], done: None };
            apply(database, &[job]).map_err(failed)
        }
    }
}

fn apply(database: &Database, group: &[Job]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut open: Option<(Table, redb::Table<'_, &str, &[u8]>)> = None;
        for (table, key, value) in group.iter().flat_map(|job| &job.changes) {
            let mut records = match open.take() {
                Some((at, records)) if at == *table => records,
                other => {
                    drop(other);
                    transaction.open_table(table.definition())?
                }
            };
            match value {
                Some(bytes) => drop(records.insert(key.as_str(), bytes.as_slice())?),
                None => drop(records.remove(key.as_str())?),
            }
            open = Some((*table, records));
        }
    }
    Ok(transaction.commit()?)
}

fn write_all(shared: &Shared, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut waited_for = first.done.is_some();
        let mut group = vec![first];
        while group.len() < GROUP {
            let next = if waited_for { jobs.try_recv().ok() } else { jobs.recv_timeout(LINGER).ok() };
            let Some(job) = next else { break };
            waited_for |= job.done.is_some();
            group.push(job);
        }
        let result = shared.write(&group);
        let lost = match &result {
            Ok(()) if waited_for => shared.lost.lock().unwrap_or_else(PoisonError::into_inner).take(),
            _ => None,
        };
        for job in group {
            match (job.done, &result, &lost) {
                (Some(done), Ok(()), None) => done(Ok(())),
                (Some(done), Ok(()), Some(error)) | (Some(done), Err(error), _) => done(Err(error.clone())),
                (None, Err(error), _) => shared.remember(error.clone()),
                (None, Ok(()), _) => {}
            }
        }
    }
}
