//! Changing the limits of a group that lives.
//!
//! Invariant: all limits of a change hold, or those from before do.

use havre_oci::runtime::LinuxResources;

use super::{Cgroup, Version, Write, v1, v2};
use crate::error::RuntimeError;

/// A change that was made.
#[derive(Debug)]
#[must_use]
pub struct Changed {
    /// What this kernel lacks, in Docker's words.
    pub warnings: Vec<String>,
    /// What brings the former limits back.
    before: Vec<Write>,
}

impl Cgroup {
    /// Changes limits, all or none; those that `resources` does not name stay, and so do the rules for
    /// devices.
    pub fn change(&self, resources: &LinuxResources) -> Result<Changed, RuntimeError> {
        let plan = match self.layout.version {
            Version::V1 => v1::plan(resources)?,
            Version::V2 => v2::plan(resources)?,
        };
        let before: Vec<Write> = plan.writes.iter().flat_map(|write| self.present(write)).collect();
        match self.write_limits(resources) {
            Ok(warnings) => Ok(Changed { warnings, before }),
            Err(error) => {
                self.bring_back(&before);
                Err(error)
            }
        }
    }

    /// Brings the limits from before a change back.
    pub fn undo(&self, changed: &Changed) {
        self.bring_back(&changed.before);
    }

    fn bring_back(&self, before: &[Write]) {
        // Twice, because a limit can be refused while another one still contradicts it.
        for _ in 0..2 {
            for write in before.iter().rev() {
                let _refused = self.write(write);
            }
        }
    }

    /// The writes that bring the present value back.
    fn present(&self, write: &Write) -> Vec<Write> {
        let Ok(text) = self.read(write.controller, &write.file) else { return Vec::new() };
        restoring(&write.file, &text, &write.value)
            .into_iter()
            .map(|value| Write::new(write.controller, write.file.clone(), value))
            .collect()
    }
}

/// What to write to a file that reads as `text`, so that it will read so again, after `value` was written.
fn restoring(file: &str, text: &str, value: &str) -> Vec<String> {
    if file == "memory.oom_control" {
        let flag = text.lines().find_map(|line| line.strip_prefix("oom_kill_disable "));
        return flag.map(|flag| flag.trim().to_owned()).into_iter().collect();
    }
    let of_devices = file.contains("_device") || file == "io.max" || file.ends_with("bfq.weight");
    if !of_devices {
        return vec![text.trim().to_owned()];
    }
    // A device without a line has no limit; v1 says that with zero, v2 with `max`.
    let device = value.split(' ').next().unwrap_or_default();
    let line = text.lines().find(|line| line.split(' ').next() == Some(device));
    match line {
        Some(line) => vec![line.to_owned()],
        None if !device.contains(':') => {
            // The weight of the group itself: `default 100` on v2, a bare number on v1.
            let own = text.lines().next().unwrap_or_default();
            vec![own.trim_start_matches("default ").to_owned()]
        }
        None if file == "io.max" => vec![format!("{device} rbps=max wbps=max riops=max wiops=max")],
        None if file.ends_with("bfq.weight") => vec![format!("{device} default")],
        None => vec![format!("{device} 0")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_back_is_what_was_read() {
        for (file, text, value, back) in [
            ("memory.limit_in_bytes", "100\n", "5", "100"),
            ("cpu.max", "max 100000\n", "5 6", "max 100000"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", "1", "0"),
            ("io.max", "", "8:0 rbps=5", "8:0 rbps=max wbps=max riops=max wiops=max"),
            ("io.max", "8:0 rbps=7 wbps=max\n", "8:0 rbps=5", "8:0 rbps=7 wbps=max"),
            ("blkio.throttle.read_bps_device", "", "8:0 5", "8:0 0"),
            ("io.bfq.weight", "default 100\n8:0 7\n", "300", "100"),
        ] {
            assert_eq!(restoring(file, text, value), [back], "{file}");
        }
    }

    #[test]
    fn a_refused_change_leaves_every_limit_as_it_was() {
        use havre_oci::runtime::{LinuxCpu, LinuxMemory, LinuxPids};
        let path = format!("/havre-test-change-{}", std::process::id());
        let resources = |memory: i64, cpus: &str, pids| LinuxResources {
            memory: Some(LinuxMemory { limit: Some(memory), ..LinuxMemory::default() }),
            cpu: Some(LinuxCpu { cpus: Some(cpus.into()), ..LinuxCpu::default() }),
            pids: Some(LinuxPids { limit: pids }),
            ..LinuxResources::default()
        };
        let cgroup = match Cgroup::create(&path, &resources(64 << 20, "0", 20)) {
            Ok(cgroup) => cgroup,
            Err(error) => {
                {
                    println!("SKIP: no control group can be made here: {error}");
                }
                return;
            }
        };
        let (memory, pids) = match cgroup.layout.version {
            Version::V1 => ("memory.limit_in_bytes", "pids.max"),
            Version::V2 => ("memory.max", "pids.max"),
        };
        let read = || (cgroup.read("memory", memory).unwrap(), cgroup.read("pids", pids).unwrap());
        let before = read();
        cgroup.change(&resources(32 << 20, "99999", 10)).unwrap_err();
        assert_eq!(read(), before);
        let changed = cgroup.change(&resources(32 << 20, "0", 10)).unwrap();
        assert_eq!(read(), ((32 << 20).to_string() + "\n", "10\n".to_owned()));
        cgroup.undo(&changed);
        assert_eq!(read(), before);
        cgroup.remove().unwrap();
    }
}
