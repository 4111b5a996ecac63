//! The first words between the agent and a device process, which find the version that both speak.
//!
//! The process says the oldest version that it speaks as those did that spoke one and no other, and behind it all that it speaks. The agent
//! waits for the second frame, whatever it is: a process without ranges soon says that it serves, or wants something, and until then there is
//! nothing to tell it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};
use tranship_device::Speaks;

use super::message::{ToAgent, ToProcess, frame_len};

/// Who a process is.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) device: String,
    /// The versions that it speaks.
    pub(super) theirs: Speaks,
    /// The newest that the agent speaks as well.
    pub(super) common: Option<u8>,
    /// What a process without ranges said behind its name.
    pub(super) first: Option<ToAgent>,
}

impl Greeting {
    /// Hears who it is, for an agent that speaks the versions `ours`.
    pub(super) async fn hear(
        from: &mut (impl AsyncRead + Unpin),
        ours: Speaks,
    ) -> io::Result<Self> {
        let Some(ToAgent::Hello { version, device }) = next(from).await? else {
            return Err(io::Error::other("it does not say who it is"));
        };
        let (theirs, first) = match next(from).await? {
            Some(ToAgent::Versions(theirs)) => (theirs, None),
            first => (Speaks::only(version), first),
        };
        Ok(Self {
            device,
            theirs,
            common: ours.common(theirs),
            first,
        })
    }

    /// What a process that says what it speaks is told; others know the one version that they have.
    pub(super) fn answer(&self) -> Option<ToProcess> {
        let version = self.common.filter(|_| self.first.is_none())?;
        Some(ToProcess::Agreed { version })
    }
}

/// What a process says next; nothing if it is a word that this version does not know.
pub(super) async fn next(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<ToAgent>> {
    let mut head = [0; 4];
    from.read_exact(&mut head).await?;
    let mut frame = vec![0; frame_len(head)?];
    from.read_exact(&mut frame).await?;
    Ok(ToAgent::decode(&frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn speaks(oldest: u8, newest: u8) -> Speaks {
        Speaks { oldest, newest }
    }

    fn heard(ours: Speaks, said: &[ToAgent]) -> io::Result<Greeting> {
        let bytes: Vec<u8> = said.iter().flat_map(ToAgent::encode).collect();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        runtime.block_on(Greeting::hear(&mut bytes.as_slice(), ours))
    }

    fn hello(version: u8) -> ToAgent {
        ToAgent::Hello {
            version,
            device: "0123-fuse-loop".to_owned(),
        }
    }

    #[test]
    fn the_newest_common_version_is_agreed_on() {
        for (ours, theirs, common) in [
            (speaks(1, 1), speaks(1, 1), Some(1)),
            (speaks(1, 2), speaks(1, 1), Some(1)),
            (speaks(1, 1), speaks(1, 2), Some(1)),
            (speaks(1, 2), speaks(1, 2), Some(2)),
            (speaks(2, 3), speaks(1, 9), Some(3)),
            (speaks(1, 1), speaks(2, 2), None),
            (speaks(2, 2), speaks(1, 1), None),
        ] {
            let said = [hello(theirs.oldest), ToAgent::Versions(theirs)];
            let greeting = heard(ours, &said).unwrap();
            assert_eq!(greeting.device, "0123-fuse-loop");
            assert_eq!((greeting.theirs, greeting.common), (theirs, common));
            let told = common.map(|version| ToProcess::Agreed { version });
            assert_eq!(greeting.answer(), told, "{ours} {theirs}");
        }
    }

    #[test]
    fn a_process_without_ranges_speaks_the_version_of_its_hello() {
        for (ours, common) in [
            (speaks(1, 1), Some(1)),
            (speaks(1, 2), Some(1)),
            (speaks(2, 2), None),
        ] {
            let greeting = heard(ours, &[hello(1), ToAgent::Serving]).unwrap();
            assert_eq!(greeting.theirs, Speaks::only(1));
            assert_eq!(greeting.common, common);
            assert_eq!(greeting.first, Some(ToAgent::Serving));
            assert_eq!(greeting.answer(), None, "it would not know the word");
        }
    }

    #[test]
    fn one_that_does_not_say_who_it_is_is_not_heard() {
        let nameless = [ToAgent::Versions(Speaks::only(1)), hello(1)];
        assert!(heard(Speaks::only(1), &nameless).is_err());
        assert!(heard(Speaks::only(1), &[hello(1)]).is_err());
    }
}
