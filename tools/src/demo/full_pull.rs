//! The yardstick: what a runtime does without laziness. All layers are downloaded side by side, each is unpacked as soon
//! as it and those below it are here, then the command starts. Layers of block devices make sense only together.
//!
//! It runs as a process of its own (`demo-step pull`), since a link belongs to a process.

use std::fs::File;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use tokio::io::AsyncWriteExt;
use tranship_source::manifest::Descriptor;

use super::block_layers;
use super::unpack::unpack_layer;
use crate::cli::RegistryArgs;
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::image::{Image, blocking};
use crate::place;

/// Pulls an image's layers into `download` and unpacks them into `root`.
pub(crate) async fn run(reference: &str, download: &Path, root: &Path) -> Outcome {
    for dir in [download, root] {
        std::fs::create_dir_all(dir).explain(|| format!("cannot make {}", dir.display()))?;
    }
    let image = Image::open_original(reference, None, &RegistryArgs::default()).await?;
    let mut downloads = Vec::new();
    for (number, layer) in image.document.layers.iter().enumerate() {
        let (store, layer, path) = (
            image.store.clone(),
            layer.clone(),
            download.join(number.to_string()),
        );
        let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            fetch(&store, &layer, &path).await.map(|()| path)
        }));
        downloads.push(task);
    }
    if let Ok(layers) = image.layers() {
        let mut paths = Vec::new();
        for download in downloads {
            paths.push(download.await.explain(|| "a download died".into())??);
        }
        let (scratch, root) = (download.to_path_buf(), root.to_path_buf());
        return blocking(move || block_layers::unpack(&layers, &paths, &scratch, &root)).await?;
    }
    for download in downloads {
        let path = download.await.explain(|| "a download died".into())??;
        let root = root.to_path_buf();
        blocking(move || unpack(&path, &root)).await??;
    }
    Ok(())
}

async fn fetch(store: &tranship_source::ImageStore, layer: &Descriptor, path: &PathBuf) -> Outcome {
    let what = || format!("cannot pull layer {}", layer.digest);
    let mut blob = store
        .blob(&layer.digest)
        .await
        .map_err(|error| place::failure(what(), &error))?;
    let mut file = tokio::fs::File::create(path).await.explain(what)?;
    tokio::io::copy(&mut blob, &mut file)
        .await
        .map_err(|error| place::failure(what(), &error))?;
    file.flush().await.explain(what)
}

fn unpack(path: &Path, root: &Path) -> Outcome {
    let what = || format!("cannot unpack {}", path.display());
    let mut begin = [0; 4];
    let file = File::open(path).explain(what)?;
    let begin_len = std::os::unix::fs::FileExt::read_at(&file, &mut begin, 0).explain(what)?;
    let stored = std::io::BufReader::with_capacity(256 << 10, file);
    match begin {
        [0x1f, 0x8b, ..] => unpack_layer(MultiGzDecoder::new(stored), root).explain(what),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            unpack_layer(zstd::Decoder::with_buffer(stored).explain(what)?, root).explain(what)
        }
        _ if begin_len > 0 => unpack_layer(stored, root).explain(what),
        _ => Err(Failure::new(Exit::Verification, what()).why("it is empty")),
    }
}
