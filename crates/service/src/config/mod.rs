//! Configuration: one TOML file and environment overrides, parsed once into a checked type.
//!
//! Fed by the program's `--config` file and environment; feeds `build` functions. Guarantees: a file that loads has
//! no unknown key and has passed the program's own checks; a file that doesn't is answered with every problem at
//! once (all syntax below the first excepted), each with file, line and key. Nothing is opened but the file itself.
//!
//! An override is a variable `<PREFIX><SECTION>__<KEY>`, for example `AUDITFLOW_SPOOL__MAX_BYTES=1GiB`: the name in
//! lower case, two underscores for each step down. A name without two underscores is not an override, because
//! Kubernetes itself sets variables such as `AUDITFLOW_COLLECTOR_PORT` for a service of that name. The value is read
//! as a TOML value (`12`, `true`, `["a"]`), and as plain text where it isn't one or where the key wants text.
//!
//! Configuration types derive `Deserialize` with `#[serde(default)]` and nothing else: `deny_unknown_fields` would
//! stop at the first unknown key, `flatten`, `untagged` and `tag` hide keys from the check.

mod age;
mod overrides;
mod problem;
mod reference;
mod size;
mod source;
mod suggest;
mod tree;

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

pub use age::Age;
pub use overrides::Overrides;
pub use problem::{ConfigError, ConfigProblem, Problems, Whereabouts};
pub use reference::check_reference;
pub use size::ByteSize;

use source::Source;
use tree::{Node, Trace};

/// Upper bound of a configuration file's size in bytes; a larger one is refused unread.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// After so many values of a wrong type the rest is not looked for: each takes another pass over the whole file.
const MAX_WRONG_VALUES: usize = 100;

/// A program's whole configuration.
///
/// `Default` is the configuration of an empty file.
pub trait Configuration: Default + DeserializeOwned {
    /// Reports what types can't say: values out of range, keys that exclude or need each other.
    ///
    /// It opens nothing and looks nothing up.
    fn validate(&self, problems: &mut Problems);
}

/// Loads a configuration from `file` (absent: from the defaults alone) and from the process environment's variables
/// that begin with `prefix`, for example `AUDITFLOW_`.
pub fn load<C: Configuration>(file: Option<&Path>, prefix: &str) -> Result<C, ConfigError> {
    let overrides = Overrides::from_env(prefix);
    let Some(path) = file else {
        return parse(Path::new("(no configuration file)"), "", &overrides);
    };
    let unreadable = |message: String| ConfigError::single(path, message);
    let bytes = crate::file::read_bounded(path, MAX_FILE_BYTES).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => unreadable(
            "no such file; write one (`config default` prints the reference) or name another with --config"
                .into(),
        ),
        _ => unreadable(format!("cannot be read: {error}")),
    })?;
    match String::from_utf8(bytes) {
        Ok(text) => parse(path, &text, &overrides),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = source::line_after(&error.as_bytes()[..valid]);
            Err(ConfigError::single(path, format!("line {line} is not UTF-8; save the file as UTF-8")))
        }
    }
}

/// Parses a configuration from `text`, which `name` is the name of, with `overrides` on top.
///
/// Collects every problem: the first syntax error, all unknown keys, all values of a wrong type, and what the
/// program's own [`Configuration::validate`] reports.
pub fn parse<C: Configuration>(name: &Path, text: &str, overrides: &Overrides) -> Result<C, ConfigError> {
    let mut source = Source::new(name, text);
    let (root, syntax_errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<ConfigProblem> = Vec::new();

    let mut root = root.into_inner();
    overrides.apply(&mut root, &mut source);

    let (config, trace) = read_tree::<C>(&mut root, &source, &mut problems);
    for (path, span) in &trace.unknown {
        let message = suggest::unknown_key(path, &trace.structs);
        problems.push(source.problem(Some(span.clone()), path, message));
    }
    if let Some(config) = &config {
        let mut semantic = Problems::default();
        config.validate(&mut semantic);
        for (key, message) in semantic.into_inner() {
            let path: Vec<String> =
                key.split('.').filter(|step| !step.is_empty()).map(str::to_owned).collect();
            // The default stands in for a value that was refused above: what it breaks isn't news.
            if !problems.iter().any(|known| known.key == key) {
                problems.push(source.problem(span_of(&root, &path), &path, message));
            }
        }
    }
    if let Some(error) = syntax_errors.first() {
        let error = source.problem(error.span(), &[], format!("syntax error: {}", error.message()));
        problems.retain(|problem| !is_echo(text, &error.at, &problem.at));
        problems.push(error);
    }
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError::new(problems)),
    }
}

/// Whether a problem found beside a syntax error at `broken` may be an echo of it: the parser goes on with a guess for
/// the line, and after a broken section header no key is known to be where it was meant.
fn is_echo(text: &str, broken: &Whereabouts, problem: &Whereabouts) -> bool {
    let Some((broken, _)) = broken.position() else { return false };
    let header = text.lines().nth(broken - 1).is_some_and(|line| line.trim_start().starts_with('['));
    match problem {
        Whereabouts::File { position: Some((line, _)), .. } => *line == broken || (header && *line > broken),
        // A key that seems to be missing may be behind the broken header.
        Whereabouts::File { position: None, .. } => header,
        Whereabouts::Environment(_) => false,
    }
}

/// Reads the type out of the tree. A value of a wrong type is reported and taken out, so that its default stands in
/// and the next one is found too; `None` where the type can't do without it.
fn read_tree<C: DeserializeOwned>(
    root: &mut DeTable<'_>,
    source: &Source,
    problems: &mut Vec<ConfigProblem>,
) -> (Option<C>, Trace) {
    loop {
        let trace = RefCell::new(Trace::default());
        let error = match C::deserialize(Node::root(root.clone(), &trace)) {
            Ok(config) => return (Some(config), trace.into_inner()),
            Err(error) => error,
        };
        if let Some(raw) = source.plain_text_of(error.span.as_ref())
            && tree::replace_with_text(root, &error.path, raw)
        {
            continue;
        }
        let path = error.path;
        problems.push(source.problem(error.span, &path, error.message));
        if !tree::remove(root, &path) || problems.len() >= MAX_WRONG_VALUES {
            return (None, trace.into_inner());
        }
    }
}

/// Where the value at `path` was written, or else the nearest table around it.
fn span_of(root: &DeTable<'_>, path: &[String]) -> Option<Range<usize>> {
    let (first, rest) = path.split_first()?;
    let (key, value) = root.get_key_value(first.as_str())?;
    let mut span = key.span();
    let mut value = value.get_ref();
    for step in rest {
        match value {
            DeValue::Table(table) => {
                let Some((key, inner)) = table.get_key_value(step.as_str()) else { break };
                span = key.span();
                value = inner.get_ref();
            }
            DeValue::Array(array) => {
                let Some(inner) = step.parse().ok().and_then(|index: usize| array.get(index)) else { break };
                span = inner.span();
                value = inner.get_ref();
            }
            _ => break,
        }
    }
    Some(span)
}

/// The default place of a program's configuration file, `/etc/auditflow/<name>.toml`.
pub fn default_path(name: &str) -> PathBuf {
    Path::new("/etc/auditflow").join(format!("{name}.toml"))
}
