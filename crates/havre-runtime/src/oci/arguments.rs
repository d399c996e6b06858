//! Flags and words of a command line, as runc has them: `--name value`, `--name=value`, one dash or two.

use std::collections::VecDeque;
use std::ffi::OsString;

use crate::error::RuntimeError;

/// What is left of the command line.
pub(crate) struct Arguments {
    words: VecDeque<String>,
    pushed: bool,
}

/// A flag, with its value if that was attached.
pub(crate) struct Flag {
    pub(crate) name: String,
    attached: Option<String>,
}

impl Arguments {
    pub(crate) fn new(words: impl IntoIterator<Item = OsString>) -> Result<Self, RuntimeError> {
        let words = words
            .into_iter()
            .map(|word| {
                word.into_string().map_err(|_| RuntimeError::invalid("command line", "it is not UTF-8"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { words, pushed: false })
    }

    /// The next word, whatever it is.
    pub(crate) fn next(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// The next word, if it is a flag.
    pub(crate) fn flag(&mut self) -> Result<Option<Flag>, RuntimeError> {
        let Some(word) = self.words.front() else { return Ok(None) };
        if word == "--" {
            self.words.pop_front();
            return Ok(None);
        }
        let Some(text) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { return Ok(None) };
        // A negative number is a word.
        if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(None);
        }
        let flag = match text.split_once('=') {
            Some((name, value)) => Flag { name: name.to_owned(), attached: Some(value.to_owned()) },
            None => Flag { name: text.to_owned(), attached: None },
        };
        self.words.pop_front();
        Ok(Some(flag))
    }

    pub(crate) fn value(&mut self, flag: Flag) -> Result<String, RuntimeError> {
        match flag.attached {
            Some(value) => Ok(value),
            None => self
                .words
                .pop_front()
                .ok_or_else(|| RuntimeError::invalid(format!("--{}", flag.name), "it needs a value")),
        }
    }

    pub(crate) fn no_value(&self, flag: Flag) -> Result<(), RuntimeError> {
        match flag.attached.as_deref() {
            None | Some("true") => Ok(()),
            Some(_) => Err(RuntimeError::invalid(format!("--{}", flag.name), "it takes no value")),
        }
    }

    /// The container's id, which must be the next word.
    pub(crate) fn id(&mut self) -> Result<String, RuntimeError> {
        let id = self
            .next()
            .ok_or_else(|| RuntimeError::invalid("command line", "the container's id is missing"))?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.bytes().all(plain) {
            return Err(RuntimeError::invalid("container id", format!("{id:?}")));
        }
        Ok(id)
    }

    /// Nothing may be left.
    pub(crate) fn end(mut self) -> Result<(), RuntimeError> {
        match self.next() {
            None => Ok(()),
            Some(word) => Err(RuntimeError::invalid("command line", format!("{word:?} is too much"))),
        }
    }

    pub(crate) fn rest(self) -> Vec<String> {
        self.words.into()
    }

    pub(crate) fn push_front(&mut self, word: &str) {
        self.words.push_front(word.to_owned());
        self.pushed = true;
    }

    pub(crate) fn is_pushed(&self) -> bool {
        self.pushed
    }
}
