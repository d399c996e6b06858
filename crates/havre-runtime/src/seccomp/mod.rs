//! System call filters.
//!
//! `profile` reads Docker's form of a profile and resolves its conditions to the specification's form;
//! `compile` turns that into a classic BPF program. Invariants: every field of a filter is compiled or
//! refused; a call of an architecture that the filter does not list ends the process; a call newer than
//! every call the filter names gets ENOSYS instead of the default error, so that C libraries fall back
//! to the older call (as runc does since 1.0).

mod compile;
mod profile;
mod table;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use havre_oci::runtime::{LinuxSeccomp, SeccompFlag};
use havre_sys::seccomp::Instruction;

pub use compile::compile;
pub use profile::{docker_default, from_docker_json};

use crate::error::{RuntimeError, Step};

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    program: Vec<Instruction>,
}

impl Filter {
    /// The program, as bytes that [`Filter::from_bytes`] on the same machine reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.program.len() * 8);
        for instruction in &self.program {
            bytes.extend_from_slice(&instruction.code.to_ne_bytes());
            bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
            bytes.extend_from_slice(&instruction.k.to_ne_bytes());
        }
        bytes
    }

    /// Reads what [`Filter::to_bytes`] wrote. The kernel checks the program when it is loaded.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RuntimeError> {
        let (chunks, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || chunks.is_empty() || chunks.len() > havre_sys::seccomp::MAX_INSTRUCTIONS {
            return Err(RuntimeError::invalid("seccomp filter", "not a compiled filter"));
        }
        let program = chunks
            .iter()
            .map(|[a, b, jt, jf, k @ ..]| Instruction {
                code: u16::from_ne_bytes([*a, *b]),
                jt: *jt,
                jf: *jf,
                k: u32::from_ne_bytes(*k),
            })
            .collect();
        Ok(Self { program })
    }

    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.program.len()
    }

    /// Whether it has none, which no compiled filter has.
    pub fn is_empty(&self) -> bool {
        self.program.is_empty()
    }

    /// Puts the calling thread under the filter.
    pub(crate) fn load(&self, flags: u64) -> Result<(), RuntimeError> {
        havre_sys::seccomp::load(&self.program, flags).step("load the seccomp filter")
    }
}

/// The kernel's flags for those of the section.
pub(crate) fn kernel_flags(seccomp: &LinuxSeccomp) -> Result<u64, RuntimeError> {
    let mut flags = 0;
    for flag in &seccomp.flags {
        flags |= match flag {
            // The filter is loaded by the only thread there is: nothing to synchronise.
            SeccompFlag::Tsync => 0,
            SeccompFlag::Log => havre_sys::seccomp::FLAG_LOG,
            SeccompFlag::SpecAllow => havre_sys::seccomp::FLAG_SPEC_ALLOW,
            SeccompFlag::WaitKillable => {
                return Err(RuntimeError::unsupported(
                    "linux.seccomp.flags",
                    "it needs a notification listener",
                ));
            }
        };
    }
    Ok(flags)
}

/// Number and name of each call of this architecture (x86-64 or AArch64).
pub fn calls() -> impl Iterator<Item = (u32, &'static str)> {
    let column = if cfg!(target_arch = "aarch64") { 3 } else { 0 };
    table::ROWS
        .iter()
        .filter_map(move |(name, numbers)| u32::try_from(numbers[column]).ok().map(|number| (number, *name)))
}

/// Compiled filters by content: hundreds of containers use few profiles.
#[derive(Debug, Default)]
pub struct FilterCache {
    /// Filters by the JSON of their section; bounded by `MOST`.
    filters: Mutex<HashMap<String, Arc<Filter>>>,
}

impl FilterCache {
    /// More different profiles than this at once are compiled anew.
    const MOST: usize = 64;

    /// The compiled form of `seccomp`.
    pub fn get(&self, seccomp: &LinuxSeccomp) -> Result<Arc<Filter>, RuntimeError> {
        let key = serde_json::to_string(seccomp)
            .map_err(|error| RuntimeError::invalid("linux.seccomp", error.to_string()))?;
        let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = filters.get(&key) {
            return Ok(Arc::clone(filter));
        }
        let filter = Arc::new(compile(seccomp)?);
        if filters.len() >= Self::MOST {
            filters.clear();
        }
        filters.insert(key, Arc::clone(&filter));
        Ok(filter)
    }
}

#[cfg(test)]
mod tests;
