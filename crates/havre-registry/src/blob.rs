//! A blob as a stream that goes on where it broke off.

use bytes::{Buf as _, Bytes};
use havre_oci::Digest;
use hyper::body::Incoming;
use hyper::{Method, StatusCode, header};
use std::time::{Duration, Instant};

use crate::http::{self, Ask};
use crate::repository::{Repository, anywhere};
use crate::{RegistryError, Result};

/// Fewer bytes than this in the time that may be silent count as silence.
const DRIP: u64 = 32 << 10;

/// The content of a blob. It ends after exactly as many bytes as were announced; whether they are the right ones is for
/// the reader to see.
#[derive(Debug)]
pub struct Blob<'a> {
    repository: &'a Repository<'a>,
    digest: Digest,
    size: u64,
    /// How many bytes were handed out, or were there before.
    at: u64,
    body: Option<Incoming>,
    /// How many bytes to leave out, for a registry that sends all of them again.
    skip: u64,
    /// Times it broke off without having brought anything.
    vain: u32,
    /// How long was waited for the registry in the present stretch, and where it began.
    stretch: (Duration, u64),
    /// Stretches without a break in which hardly anything came.
    slow: u32,
}

impl Repository<'_> {
    /// Whether the repository has a blob, and its length.
    pub async fn has_blob(&self, digest: &Digest) -> Result<Option<u64>> {
        let asked = anywhere!(self, endpoint => {
            let ask = Ask::new(Method::HEAD, endpoint.url(&self.below(&format!("blobs/{digest}"))));
            let answer = self.send(endpoint, ask).await?;
            Ok(http::text(&answer, &header::CONTENT_LENGTH).and_then(|text| text.parse().ok()))
        });
        match asked {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(|length| length.or(Some(0))),
        }
    }

    /// A small blob, whole and verified.
    pub async fn small_blob(&self, digest: &Digest, size: u64, limit: u64) -> Result<Bytes> {
        if size > limit {
            let why = format!("{size} bytes, more than {limit}");
            return Err(RegistryError::Protocol { url: format!("blob {digest}"), why });
        }
        let mut bytes = Vec::new();
        let mut blob = self.blob(digest, size, 0);
        while let Some(piece) = blob.next().await? {
            bytes.extend_from_slice(&piece);
        }
        let found = Digest::of_bytes(&bytes);
        if found != *digest {
            return Err(RegistryError::Mismatch { what: "blob", expected: digest.clone(), found });
        }
        Ok(bytes.into())
    }

    /// A blob of `size` bytes, from byte `at` on.
    #[must_use]
    pub fn blob(&self, digest: &Digest, size: u64, at: u64) -> Blob<'_> {
        let (digest, stretch) = (digest.clone(), (Duration::ZERO, at));
        Blob { repository: self, digest, size, at, body: None, skip: 0, vain: 0, stretch, slow: 0 }
    }
}

impl Blob<'_> {
    /// The next piece; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.at == self.size {
                return Ok(None);
            }
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.open().await?,
            };
            // Only the registry's time counts: what the reader takes is its own.
            let began = Instant::now();
            let next = http::piece(&mut body, self.repository.http.settings.silence).await;
            self.stretch.0 += began.elapsed();
            let broken = match next {
                Ok(Some(mut piece)) => {
                    let left_out = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
                    self.skip -= u64::try_from(left_out).unwrap_or(0);
                    piece.advance(left_out);
                    if piece.is_empty() {
                        self.body = Some(body);
                        continue;
                    }
                    let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                    if length > self.size - self.at {
                        return Err(self.lie(format!("more than the {} bytes announced", self.size)));
                    }
                    self.at += length;
                    self.vain = 0;
                    if self.drips() {
                        // Another connection may be quicker; the next piece comes from it.
                        self.slow += 1;
                        if self.slow >= self.repository.http.settings.tries {
                            let why = "hardly anything comes any more";
                            return Err(self.broke_off(format!("{why} at byte {} of {}", self.at, self.size)));
                        }
                    } else {
                        self.body = Some(body);
                    }
                    return Ok(Some(piece));
                }
                Ok(None) => "it ended early".to_owned(),
                Err(error) => error.to_string(),
            };
            self.pause(&broken).await?;
        }
    }

    /// Whether hardly anything comes.
    fn drips(&mut self) -> bool {
        let (waited, from) = self.stretch;
        if waited < self.repository.http.settings.silence {
            return false;
        }
        self.stretch = (Duration::ZERO, self.at);
        let drips = self.at - from < DRIP && self.at < self.size;
        if !drips {
            self.slow = 0;
        }
        drips
    }

    /// Waits before it is tried again.
    async fn pause(&mut self, broken: &str) -> Result<()> {
        self.vain += 1;
        let settings = &self.repository.http.settings;
        if self.vain >= settings.tries {
            let why = format!("{broken} at byte {} of {}, {} times", self.at, self.size, self.vain);
            return Err(self.broke_off(why));
        }
        tracing::debug!(blob = %self.digest, at = self.at, broken, "going on where it broke off");
        tokio::time::sleep(settings.pause * 2_u32.saturating_pow(self.vain - 1)).await;
        Ok(())
    }

    async fn open(&mut self) -> Result<Incoming> {
        let (digest, at, size) = (self.digest.clone(), self.at, self.size);
        let repository = self.repository;
        let (answer, url) = anywhere!(repository, endpoint => {
            let mut ask =
                Ask::new(Method::GET, endpoint.url(&repository.below(&format!("blobs/{digest}"))));
            if at > 0 {
                ask = ask.with(header::RANGE, format!("bytes={at}-{}", size - 1));
            }
            let url = ask.url.clone();
            Ok((repository.send(endpoint, ask).await?, url))
        })?;
        let lie = |why: String| RegistryError::Protocol { url: url.clone(), why };
        self.skip = 0;
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            let range = http::text(&answer, &header::CONTENT_RANGE).unwrap_or_default();
            let starts =
                range.strip_prefix("bytes ").and_then(|range| range.split('-').next()?.parse::<u64>().ok());
            if starts != Some(at) {
                return Err(lie(format!("asked for bytes from {at} on, got {range:?}")));
            }
            return Ok(answer.into_body());
        }
        let length = http::text(&answer, &header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if let Some(length) = length.filter(|length| *length != size) {
            return Err(lie(format!("the blob has {length} bytes, not {size}")));
        }
        // The registry does not know ranges: what we have is skipped.
        self.skip = at;
        Ok(answer.into_body())
    }

    fn broke_off(&self, why: String) -> RegistryError {
        RegistryError::BrokeOff { url: format!("blob {}", self.digest), why }
    }

    fn lie(&self, why: String) -> RegistryError {
        RegistryError::Protocol { url: format!("blob {}", self.digest), why }
    }
}
