//! The kubelet's `CredentialProviderConfig`, in YAML or JSON.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use serde::Deserialize;

use crate::credentials::image_match;
use crate::reference::RepoRef;

/// The longest configuration that is read, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Versions of the file that say the same in the same words.
const VERSIONS: [&str; 3] = [
    "kubelet.config.k8s.io/v1",
    "kubelet.config.k8s.io/v1beta1",
    "kubelet.config.k8s.io/v1alpha1",
];

/// Versions of what is said to a plugin.
const PLUGIN_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];

/// Why plugins cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginsError {
    /// The file cannot be read.
    #[error("could not read the credential provider configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what the kubelet reads.
    #[error("the credential provider configuration {} cannot be used: {why}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    api_version: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    token_attributes: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

/// A plugin as it is configured.
pub(super) struct Provider {
    pub(super) name: String,
    match_images: Vec<String>,
    /// How long an answer is kept that does not say.
    pub(super) default_life: Duration,
    pub(super) api_version: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its environment and arguments may hold secrets.
        f.debug_struct("Provider")
            .field("name", &self.name)
            .field("match_images", &self.match_images)
            .finish_non_exhaustive()
    }
}

impl Provider {
    /// Whether it is asked about `repo`.
    pub(super) fn is_for(&self, repo: &RepoRef) -> bool {
        let mut patterns = self.match_images.iter();
        patterns.any(|pattern| image_match::matches(pattern, repo))
    }
}

/// Reads all that can be used; a plugin that wants tokens of pods is left out, and said to be.
pub(super) fn read(path: &Path) -> Result<Vec<Provider>, PluginsError> {
    let failed = |source| PluginsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    let mut bounded = io::Read::take(file, FILE_LEN_MAX);
    io::Read::read_to_string(&mut bounded, &mut text).map_err(failed)?;
    parse(&text).map_err(|why| PluginsError::Value {
        path: path.to_owned(),
        why,
    })
}

fn parse(text: &str) -> Result<Vec<Provider>, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if file.kind != "CredentialProviderConfig" || !VERSIONS.contains(&&*file.api_version) {
        return Err(format!(
            "it is {} of {}, not CredentialProviderConfig of {}",
            file.kind,
            file.api_version,
            VERSIONS.join(" or ")
        ));
    }
    let mut providers = Vec::new();
    for written in file.providers {
        if written.token_attributes.is_some() {
            tracing::warn!(
                plugin = written.name,
                "a plugin wants tokens of pods, which only the kubelet can get; it is not asked"
            );
            continue;
        }
        providers.push(provider(written)?);
    }
    Ok(providers)
}

fn provider(written: Written) -> Result<Provider, String> {
    let name = written.name;
    if name.is_empty() || name.contains(['/', ' ']) || name == "." || name == ".." {
        return Err(format!("{name:?} is no name of a program"));
    }
    if written.match_images.is_empty() {
        return Err(format!("{name} has no matchImages"));
    }
    if !PLUGIN_VERSIONS.contains(&&*written.api_version) {
        return Err(format!(
            "{name} speaks {}, not {}",
            written.api_version,
            PLUGIN_VERSIONS.join(" or ")
        ));
    }
    let life = written
        .default_cache_duration
        .ok_or_else(|| format!("{name} has no defaultCacheDuration"))?;
    let env = written.env.unwrap_or_default().into_iter();
    Ok(Provider {
        match_images: written.match_images,
        default_life: duration(&life).ok_or_else(|| {
            format!("{name} has the defaultCacheDuration {life:?}, which is no time")
        })?,
        api_version: written.api_version,
        args: written.args.unwrap_or_default(),
        env: env.map(|one| (one.name, one.value)).collect(),
        name,
    })
}

/// A time as Go writes it: `12h`, `1h30m0s`, `0`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    match text {
        "0" => Some(Duration::ZERO),
        text => humantime::parse_duration(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: ecr-credential-provider
    matchImages:
      - "*.dkr.ecr.*.amazonaws.com"
      - "registry.example:5000/team"
    defaultCacheDuration: "12h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args:
      - get-credentials
    env:
      - name: AWS_PROFILE
        value: hunter2
  - name: with-token
    matchImages: ["*.example"]
    defaultCacheDuration: 0s
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    tokenAttributes:
      serviceAccountTokenAudience: x
"#;

    #[test]
    fn the_kubelets_file_is_read() {
        let providers = parse(GOOD).unwrap();
        let [provider] = providers.as_slice() else {
            panic!("{providers:?}");
        };
        assert_eq!(provider.default_life, Duration::from_hours(12));
        assert_eq!(provider.args, ["get-credentials"]);
        assert_eq!(
            provider.env,
            [("AWS_PROFILE".to_owned(), "hunter2".to_owned())]
        );
        assert!(provider.is_for(&"registry.example:5000/team/app".parse().unwrap()));
        assert!(!provider.is_for(&"registry.example/team/app".parse().unwrap()));
        assert!(!format!("{provider:?}").contains("hunter2"));
    }

    #[test]
    fn older_versions_and_json_are_the_same_file() {
        for version in VERSIONS {
            let json = format!(
                r#"{{"apiVersion":"{version}","kind":"CredentialProviderConfig","providers":[
                    {{"name":"p","matchImages":["a.example"],"defaultCacheDuration":"1h30m0s",
                      "apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1"}}]}}"#
            );
            let providers = parse(&json).unwrap();
            let life = providers.first().unwrap().default_life;
            assert_eq!(life, Duration::from_mins(90));
        }
    }

    #[test]
    fn what_the_kubelet_would_refuse_is_refused_by_name() {
        for (from, to, named) in [
            ("kind: CredentialProviderConfig", "kind: Pod", "Pod"),
            ("kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v9", "v9"),
            ("name: ecr-credential-provider", "name: ../ecr", "../ecr"),
            ("\"12h\"", "\"soon\"", "soon"),
            ("defaultCacheDuration: \"12h\"", "", "defaultCacheDuration"),
            (
                "apiVersion: credentialprovider.kubelet.k8s.io/v1\n    args",
                "apiVersion: x/v1\n    args",
                "x/v1",
            ),
            ("providers:", "providers: 1\nothers:", ""),
        ] {
            let told = parse(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(told.contains(named), "{told}");
        }
    }
}
