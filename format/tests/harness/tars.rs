//! Layer tars, made entry by entry with PAX records wherever a header cannot say it.

use std::collections::BTreeMap;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File(Vec<u8>),
    Directory,
    Symlink(Vec<u8>),
    Link(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Socket,
}

/// One entry of a layer.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Further PAX records.
    pub(crate) records: Vec<(String, String)>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let target = match &self.kind {
            Kind::File(data) => format!("{} bytes", data.len()),
            Kind::Link(target) | Kind::Symlink(target) => target.escape_ascii().to_string(),
            other => format!("{other:?}"),
        };
        let xattr = |(name, value): (&Vec<u8>, &Vec<u8>)| {
            format!("{}: {} bytes", name.escape_ascii(), value.len())
        };
        let xattrs: Vec<String> = self.xattrs.iter().map(xattr).collect();
        let path = self.path.escape_ascii();
        write!(f, "`{path}` {target} {:o} {xattrs:?}", self.permissions)
    }
}

impl Item {
    pub(crate) fn new(path: impl AsRef<[u8]>, kind: Kind) -> Self {
        let permissions = if kind == Kind::Directory {
            0o755
        } else {
            0o644
        };
        Self {
            path: path.as_ref().to_vec(),
            kind,
            permissions,
            uid: 0,
            gid: 0,
            mtime: (1_700_000_000, 0),
            xattrs: BTreeMap::new(),
            records: Vec::new(),
        }
    }

    pub(crate) fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self::new(path, Kind::File(data.as_ref().to_vec()))
    }

    pub(crate) fn directory(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, Kind::Directory)
    }

    pub(crate) fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref().to_vec();
        self.xattrs.insert(name.as_bytes().to_vec(), value);
        self
    }

    pub(crate) fn record(mut self, key: &str, value: &str) -> Self {
        self.records.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(crate) fn permissions(mut self, permissions: u16) -> Self {
        self.permissions = permissions;
        self
    }

    pub(crate) fn mtime(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.mtime = (seconds, nanoseconds);
        self
    }

    fn append(&self, out: &mut Vec<u8>) {
        let (code, data, target, device): (u8, &[u8], &[u8], (u32, u32)) = match &self.kind {
            Kind::File(data) => (b'0', data, b"", (0, 0)),
            Kind::Link(target) => (b'1', b"", target, (0, 0)),
            Kind::Symlink(target) => (b'2', b"", target, (0, 0)),
            Kind::CharDevice(major, minor) => (b'3', b"", b"", (*major, *minor)),
            Kind::BlockDevice(major, minor) => (b'4', b"", b"", (*major, *minor)),
            Kind::Directory => (b'5', b"", b"", (0, 0)),
            Kind::Fifo => (b'6', b"", b"", (0, 0)),
            Kind::Socket => (b'0', b"", b"", (0, 0)),
        };
        let mut records = Vec::new();
        let mut say = |key: &[u8], value: &[u8]| records.extend(record(key, value));
        if self.path.len() > 100 {
            say(b"path", &self.path);
        }
        if target.len() > 100 {
            say(b"linkpath", target);
        }
        if self.uid >= 1 << 21 {
            say(b"uid", self.uid.to_string().as_bytes());
        }
        if self.gid >= 1 << 21 {
            say(b"gid", self.gid.to_string().as_bytes());
        }
        let (seconds, nanoseconds) = self.mtime;
        if nanoseconds > 0 && seconds >= 0 {
            say(b"mtime", format!("{seconds}.{nanoseconds:09}").as_bytes());
        } else if nanoseconds > 0 {
            let text = format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
            say(b"mtime", text.as_bytes());
        } else if seconds < 0 {
            say(b"mtime", seconds.to_string().as_bytes());
        }
        if self.kind == Kind::Socket {
            say(b"SCHILY.filetype", b"socket");
        }
        for (key, value) in &self.records {
            say(key.as_bytes(), value.as_bytes());
        }
        for (name, value) in &self.xattrs {
            say(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !records.is_empty() {
            append(out, b'x', b"PaxHeader", &records, b"", (0, 0), self);
        }
        append(out, code, &self.path, data, target, device, self);
    }
}

fn append(
    out: &mut Vec<u8>,
    code: u8,
    path: &[u8],
    data: &[u8],
    target: &[u8],
    device: (u32, u32),
    item: &Item,
) {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let octal = |number: u64| format!("{number:07o}\0").into_bytes();
    let cut = |number: u32| {
        if number < 1 << 21 {
            u64::from(number)
        } else {
            0
        }
    };
    put(0, &path[..path.len().min(100)]);
    put(100, &octal(u64::from(item.permissions)));
    put(108, &octal(cut(item.uid)));
    put(116, &octal(cut(item.gid)));
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, format!("{:011o}\0", item.mtime.0.max(0)).as_bytes());
    put(148, b"        ");
    put(156, &[code]);
    put(157, &target[..target.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, &octal(u64::from(device.0)));
    put(337, &octal(u64::from(device.1)));
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend(block);
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    [len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// The tar of a layer.
pub(crate) fn tar(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        item.append(&mut out);
    }
    out.resize(out.len() + 1024, 0);
    out
}
