//! The embedded image `hello`: our own program as the only file of a layer.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use havre_oci::image::{ContainerConfig, History, ImageConfig};
use havre_oci::{Platform, Reference};
use havre_store::Batch;
use havre_store::tar::{Entry, TarWriter};

use crate::{IMAGES, Image, ImageError, Images, Result};

/// The label by which the embedded image is known.
pub const HELLO_LABEL: &str = "io.havre.hello";
const NAME: &str = "hello";

impl Images {
    /// Makes the image `hello` from the program at `binary`, unless it is there already or the name was given
    /// to something else.
    pub fn ensure_hello(&self, binary: &Path) -> Result<Image> {
        let mut file = File::open(binary).map_err(ImageError::Hello)?;
        let length = file.metadata().map_err(ImageError::Hello)?.len();
        let version = fingerprint(&mut file).map_err(ImageError::Hello)?;
        let old = self.resolve(NAME).ok();
        let label = |image: &Image| image.config.config.labels.get(HELLO_LABEL).cloned();
        if let Some(image) = &old {
            let known = image.config.config.labels.get("io.havre.program");
            if label(image).is_none() || known == Some(&version) {
                return Ok(image.clone());
            }
        }
        let platform = Platform::host();
        let config = ContainerConfig {
            entrypoint: Some(vec!["/hello".into()]),
            labels: [(HELLO_LABEL, "1"), ("io.havre.program", &version)]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            ..ContainerConfig::default()
        };
        // No times: the same program gives the same image.
        let created = Some("1970-01-01T00:00:00Z".to_owned());
        let document = ImageConfig {
            created: created.clone(),
            architecture: platform.architecture,
            os: platform.os,
            config,
            history: vec![History { created, created_by: "havre".into(), ..History::default() }],
            ..ImageConfig::default()
        };
        let entry = Entry { path: b"hello".into(), mode: 0o755, size: length, ..Entry::default() };
        let mut head = TarWriter::new(Vec::new());
        head.header(&entry).map_err(ImageError::Hello)?;
        let mut end = TarWriter::new(Vec::new());
        end.pad(length).map_err(ImageError::Hello)?;
        let (head, end) = (std::mem::take(head.content()), end.finish().map_err(ImageError::Hello)?);
        let archive = Cursor::new(head).chain(file.take(length)).chain(Cursor::new(end));
        let image = self.add_single(archive, document, Some(Reference::parse(NAME)?))?;
        if let Some(old) = old.filter(|old| old.id != image.id) {
            self.forget_unused(&old)?;
        }
        Ok(image)
    }

    /// Removes an image of an older program, if no container stands on it.
    fn forget_unused(&self, old: &Image) -> Result<()> {
        let mut state = self.state();
        let layers = &old.config.rootfs.diff_ids;
        let stands = state.writables().values().any(|below| below.iter().any(|layer| layers.contains(layer)));
        if stands || state.names(&old.id).next().is_some() {
            return Ok(());
        }
        self.db.commit(Batch::new().delete(IMAGES, &old.id.to_string()))?;
        state.remove_image(&old.id);
        for layer in layers.iter().filter(|layer| !state.layer_is_needed(layer)) {
            self.snapshots.remove_layer(layer)?;
        }
        self.drop_trees(&state)?;
        Ok(self.content.remove(&old.id)?)
    }
}

/// The digest of the program; the file is then at its start again.
fn fingerprint(file: &mut File) -> std::io::Result<String> {
    use std::io::Seek;
    let mut digester = havre_oci::Digester::new();
    let mut block = vec![0_u8; 64 << 10];
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        digester.update(&block[..read]);
    }
    file.rewind()?;
    Ok(digester.finish().short())
}
