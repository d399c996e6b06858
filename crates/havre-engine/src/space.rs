//! A full disk in words: which file system, how full it is, and what takes most of it.
//!
//! Nothing here is asked until something failed for want of space; then the files of containers are measured.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use crate::container::log_path;
use crate::containers::Containers;

/// How many of each kind are named.
const NAMED: usize = 3;

/// Whether an error, or what it came from, is that there is no space left or that a quota is used up.
#[must_use]
pub fn is_want_of_space(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error
            .downcast_ref::<io::Error>()
            .or_else(|| error.downcast_ref::<Arc<io::Error>>().map(|e| &**e));
        if io.is_some_and(|io| matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
        {
            return true;
        }
        next = error.source();
    }
    false
}

fn human(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    let unit = UNITS.iter().find(|(_, size)| bytes >= *size);
    unit.map_or_else(
        || format!("{bytes}B"),
        |(name, size)| {
            let tenths = bytes / (size / 10);
            format!("{}.{}{name}", tenths / 10, tenths % 10)
        },
    )
}

/// The biggest, with their names.
fn biggest(mut all: Vec<(String, u64)>) -> String {
    all.retain(|(_, size)| *size > 0);
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let named: Vec<String> =
        all.iter().take(NAMED).map(|(name, size)| format!("{name} {}", human(*size))).collect();
    let sum = all.iter().fold(0_u64, |sum, (_, size)| sum.saturating_add(*size));
    match named.as_slice() {
        [] => "nothing".into(),
        named => format!("{} ({})", human(sum), named.join(", ")),
    }
}

/// The mount point that a path is below of.
fn mount_of(path: &std::path::Path) -> String {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let above = points.filter(|point| path.starts_with(point));
    above.max_by_key(|point| point.len()).unwrap_or("/").to_owned()
}

impl Containers {
    /// The file system of the data root and its biggest consumers, as a sentence for an error. Blocks.
    #[must_use]
    pub fn space(&self) -> String {
        let launcher = &self.launcher;
        let root = &launcher.settings.data_root;
        let mut text = String::new();
        if let Ok(stat) = rustix::fs::statvfs(root) {
            let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
            let used = stat.f_blocks.saturating_sub(stat.f_bfree);
            let all = used.saturating_add(stat.f_bavail).max(1);
            write!(
                text,
                "the file system {} of the data root is full ({} of {} used, {} %",
                mount_of(root),
                human(bytes(used)),
                human(bytes(all)),
                used.saturating_mul(100) / all
            )
            .ok();
            if stat.f_files > 0 && stat.f_ffree == 0 {
                text.push_str("; no inodes left");
            }
            text.push(')');
        }
        let views = self.list();
        let image = |view: havre_image::ImageView| {
            (view.repo_tags.first().cloned().unwrap_or_else(|| view.id.short()), view.size)
        };
        let images = launcher.images.views().into_iter().map(image).collect();
        let name = |view: &crate::View| view.now.name.to_string();
        let written = views.iter().map(|view| (name(view), launcher.images.written(view.id()))).collect();
        let logs = views.iter().map(|view| {
            let log = log_path(&launcher.data_dir(view.id()), view.id());
            let folder = log.parent().and_then(|folder| std::fs::read_dir(folder).ok());
            let files = folder.into_iter().flatten().flatten();
            let own = |entry: &std::fs::DirEntry| {
                log.file_name().is_some_and(|log| {
                    entry.file_name().to_string_lossy().starts_with(&*log.to_string_lossy())
                })
            };
            let sizes = files.filter(own).filter_map(|entry| Some(entry.metadata().ok()?.len()));
            (name(view), sizes.sum())
        });
        let logs = logs.collect();
        write!(
            text,
            "; images: {}; files of containers: {}; logs: {}; 'docker system df -v' shows all, 'docker system prune' frees what is unused",
            biggest(images),
            biggest(written),
            biggest(logs)
        )
        .ok();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disks_are_known_through_every_layer_of_an_error() {
        let full = || io::Error::from_raw_os_error(28);
        assert!(is_want_of_space(&full()));
        assert!(is_want_of_space(&Arc::new(full())));
        let store = havre_store::StoreError::Write { path: "/x".into(), source: Arc::new(full()) };
        assert!(is_want_of_space(&havre_image::ImageError::from(store)));
        assert!(!is_want_of_space(&io::Error::from_raw_os_error(13)));
    }

    #[test]
    fn the_biggest_are_named() {
        let all = [("a", 1), ("b", 2_500_000), ("c", 0), ("d", 3), ("e", 2)];
        let all = all.map(|(name, size)| (name.to_owned(), size)).to_vec();
        assert_eq!(biggest(all), "2.5MB (b 2.5MB, d 3B, e 2B)");
        assert_eq!(biggest(Vec::new()), "nothing");
    }
}
