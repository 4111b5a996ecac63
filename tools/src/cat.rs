//! `tranship cat`: one file of a converted image to stdout, without pulling the rest.

use tranship_format::erofs::FileKind;

use crate::cli::CatArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::image::{Image, blocking};
use crate::output;
use crate::path::{self, InImage};

const PIECE_LEN: usize = 1 << 20;

pub(crate) async fn run(args: &CatArgs) -> Outcome {
    let InImage { reference, path } = path::split(&args.reference, args.path.as_deref(), "/")?;
    let image = Image::open(&reference, args.platform.as_ref(), &args.registry).await?;
    let filesystem = image.filesystem().await?;
    blocking(move || {
        let failed = |error| path::failure(&image, &path, &error);
        let inode = filesystem.resolve(path.as_bytes()).map_err(failed)?;
        if inode.kind != FileKind::Regular {
            return Err(
                Failure::new(Exit::Usage, format!("{path} is no regular file"))
                    .next("`tranship ls -l` shows what it is"),
            );
        }
        let mut piece = vec![0; PIECE_LEN];
        let mut offset = 0;
        loop {
            let len = filesystem
                .read(&inode, offset, &mut piece)
                .map_err(failed)?;
            let Some(bytes) = piece.get(..len).filter(|bytes| !bytes.is_empty()) else {
                return Ok(());
            };
            output::print_bytes(bytes)?;
            offset += u64::try_from(len).unwrap_or(0);
        }
    })
    .await?
}
