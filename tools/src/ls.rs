//! `tranship ls`: the files of a converted image, without pulling it.

use std::fmt::Write as _;

use serde::Serialize;
use tranship_format::erofs::{ErofsError, FileKind, Inode};

use crate::cli::{Common, LsArgs};
use crate::failure::Outcome;
use crate::image::{Image, ImageFilesystem, blocking};
use crate::output::{self, Format};
use crate::path::{self, InImage};
use crate::time;

/// One file.
#[derive(Debug, Serialize)]
struct Row {
    path: String,
    kind: &'static str,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    links: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

pub(crate) async fn run(common: &Common, args: &LsArgs) -> Outcome {
    let InImage { reference, path } = path::split(&args.reference, args.path.as_deref(), "/")?;
    let image = Image::open(&reference, args.platform.as_ref(), &args.registry).await?;
    let filesystem = image.filesystem().await?;
    let recursive = args.recursive;
    let listed = blocking(move || {
        let found = list(&filesystem, &path, recursive);
        found.map_err(|error| path::failure(&image, &path, &error))
    });
    let rows = listed.await??;
    if common.output == Format::Json {
        return output::print_json(&rows);
    }
    let mut text = String::new();
    for row in &rows {
        if args.long {
            text.push_str(&long(row));
        }
        text.push_str(&row.path);
        if let Some(target) = row.target.as_ref().filter(|_| args.long) {
            let _always_fits = write!(text, " -> {target}");
        }
        text.push('\n');
    }
    output::print(&text)
}

fn list(filesystem: &ImageFilesystem, path: &str, recursive: bool) -> Result<Vec<Row>, ErofsError> {
    let begin = filesystem.resolve(path.as_bytes())?;
    if !begin.is_dir() {
        return Ok(vec![row(filesystem, path.to_owned(), &begin)?]);
    }
    let mut rows = Vec::new();
    // What is still to be listed, the next one last: a directory's content comes right behind it.
    let mut waiting = Vec::new();
    enter(filesystem, path, &begin, &mut waiting)?;
    while let Some((path, inode)) = waiting.pop() {
        if recursive && inode.is_dir() {
            enter(filesystem, &path, &inode, &mut waiting)?;
        }
        rows.push(row(filesystem, path, &inode)?);
    }
    Ok(rows)
}

fn enter(
    filesystem: &ImageFilesystem,
    path: &str,
    dir: &Inode,
    waiting: &mut Vec<(String, Inode)>,
) -> Result<(), ErofsError> {
    let prefix = path.trim_end_matches('/');
    for entry in filesystem.read_dir(dir)?.into_iter().rev() {
        let inode = filesystem.inode(entry.nid)?;
        waiting.push((
            format!("{prefix}/{}", String::from_utf8_lossy(&entry.name)),
            inode,
        ));
    }
    Ok(())
}

fn row(filesystem: &ImageFilesystem, path: String, inode: &Inode) -> Result<Row, ErofsError> {
    let target = match inode.kind {
        FileKind::Symlink => {
            Some(String::from_utf8_lossy(&filesystem.read_link(inode)?).into_owned())
        }
        _ => None,
    };
    Ok(Row {
        path,
        kind: kind_name(inode.kind),
        mode: inode.permissions(),
        uid: inode.uid,
        gid: inode.gid,
        size: inode.size,
        mtime: inode.mtime,
        links: inode.nlink,
        target,
    })
}

const fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::CharDevice => "char-device",
        FileKind::BlockDevice => "block-device",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::Symlink => "symlink",
    }
}

fn long(row: &Row) -> String {
    format!(
        "{}{} {:>3} {:>5} {:>5} {:>10} {} ",
        kind_letter(row.kind),
        permissions(row.mode),
        row.links,
        row.uid,
        row.gid,
        row.size,
        time::of_unix(row.mtime)
    )
}

fn kind_letter(kind: &str) -> char {
    match kind {
        "directory" => 'd',
        "char-device" => 'c',
        "block-device" => 'b',
        "fifo" => 'p',
        "socket" => 's',
        "symlink" => 'l',
        _ => '-',
    }
}

/// `rwxr-xr-x` with the special bits in the places where `ls` shows them.
fn permissions(mode: u16) -> String {
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::with_capacity(9);
    for (shift, (bit, with_x, without_x)) in [6, 3, 0].into_iter().zip(special) {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & bit != 0, bits & 1 != 0) {
            (true, true) => with_x,
            (true, false) => without_x,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_read_as_in_ls() {
        assert_eq!(permissions(0o755), "rwxr-xr-x");
        assert_eq!(permissions(0o4755), "rwsr-xr-x");
        assert_eq!(permissions(0o2644), "rw-r-Sr--");
        assert_eq!(permissions(0o1777), "rwxrwxrwt");
    }
}
