//! `--cidfile`: the id of a new container, in a file that is there only when the container is.

use std::io::Write as _;

use crate::failure::file_error;

/// The file that `--cidfile` names; removed again when no id was written.
pub(crate) struct CidFile {
    path: String,
    written: bool,
}

impl CidFile {
    /// Makes the file; it must not be there.
    pub(crate) fn reserve(path: &str) -> Result<Option<Self>, String> {
        if path.is_empty() {
            return Ok(None);
        }
        let created = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
        match created {
            Ok(_) => Ok(Some(Self { path: path.into(), written: false })),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(format!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            )),
            Err(error) => {
                Err(format!("failed to create the container ID file: {}", file_error("open", path, &error)))
            }
        }
    }

    /// Writes the id.
    pub(crate) fn fill(&mut self, id: &str) -> Result<(), String> {
        let mut file =
            std::fs::OpenOptions::new().write(true).open(&self.path).map_err(|error| error.to_string())?;
        file.write_all(id.as_bytes()).map_err(|error| {
            format!("failed to write the container ID to the file ({}): {error}", self.path)
        })?;
        self.written = true;
        Ok(())
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if !self.written {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_file_is_made_once_and_vanishes_without_an_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cid");
        let name = path.to_str().unwrap();
        drop(CidFile::reserve(name).unwrap());
        assert!(!path.exists());
        CidFile::reserve(name).unwrap().unwrap().fill("abc").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");
        assert!(CidFile::reserve(name).is_err());
    }
}
