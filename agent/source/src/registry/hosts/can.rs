//! What a host may be asked for.

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) struct Can {
    pub(in crate::registry) pull: bool,
    pub(in crate::registry) resolve: bool,
    pub(in crate::registry) push: bool,
}

/// What somebody wants of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Need {
    /// Something named by its digest.
    Pull,
    /// What a tag means.
    Resolve,
    /// To keep something.
    Push,
}

impl Default for Can {
    fn default() -> Self {
        Self::ALL
    }
}

impl Can {
    pub(in crate::registry) const ALL: Self = Self {
        pull: true,
        resolve: true,
        push: true,
    };

    /// Takes names as files write them; gives an unknown one back.
    pub(super) fn named(names: &[String]) -> Result<Self, String> {
        let mut can = Self {
            pull: false,
            resolve: false,
            push: false,
        };
        for name in names {
            match name.to_ascii_lowercase().as_str() {
                "pull" => can.pull = true,
                "resolve" => can.resolve = true,
                "push" => can.push = true,
                // Newer containerds ask those for referrers; whoever resolves tags is asked here.
                "referrers" => {}
                _ => return Err(name.clone()),
            }
        }
        Ok(can)
    }

    pub(in crate::registry) fn what(self, need: Need) -> bool {
        match need {
            Need::Pull => self.pull,
            Need::Resolve => self.resolve,
            Need::Push => self.push,
        }
    }
}
