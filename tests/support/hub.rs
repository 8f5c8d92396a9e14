//! A Hub on 127.0.0.1: models kept in memory, the API that cognate uses, and faults on demand.
//!
//! Large files (weights) answer with a redirect to a storage under another host name, others with
//! one to another path, as at the Hub itself.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use crate::support::{INDEX, Run, SINGLE, Sandbox, Tensor};
use crate::support::{config, finish, llama, sha256, shard};
use cognate::model::hub::{HubReference, Resolved, Settings, Unwatched, Want, resolve};
use cognate::{Error, Result};
use safetensors::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The commit that every model is at.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Averages two models of [`hub`].
pub(crate) const RECIPE: &str = "\
merge_method: linear
models:
  - {model: org/a, parameters: {weight: 0.5}}
  - {model: org/b@v1, parameters: {weight: 0.5}}
";

/// Weights that are much longer than their header.
pub(crate) fn weights(seed: u64) -> Vec<Tensor> {
    let mut tensors = llama(2, seed);
    tensors.push(Tensor::random("model.wide.weight", Dtype::F32, &[512, 512], seed));
    tensors
}

/// A Hub with a sharded model `org/a` and a model `org/b` of one file, and other files that no
/// merge needs.
pub(crate) fn hub() -> Hub {
    let hub = Hub::start();
    let a = weights(1);
    let (first, second) = a.split_at(4);
    let mut map = serde_json::Map::new();
    for (file, tensors) in [("m-1.safetensors", first), ("m-2.safetensors", second)] {
        hub.put("org/a", file, shard(tensors));
        map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), file.into())));
    }
    hub.put("org/a", INDEX, json!({"weight_map": map}).to_string());
    hub.put("org/a", "pytorch_model.bin", "never fetched");
    hub.put("org/a", "runs/events.out", "never fetched");
    hub.put("org/a", "README.md", "# a card that declares nothing");
    hub.put("org/a", "tokenizer.json", "{}");
    hub.put("org/a", "1_Pooling/config.json", "{\"dim\": 8}");
    hub.put("org/b", SINGLE, shard(&weights(2)));
    for model in ["org/a", "org/b"] {
        hub.put(model, "config.json", config(2).to_string());
    }
    hub
}

/// The binary in the sandbox, with this Hub.
pub(crate) fn command(sandbox: &Sandbox, hub: &Hub, args: &[&str]) -> Command {
    let mut command = sandbox.command(args);
    command.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", &hub.endpoint);
    for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy).env_remove(proxy.to_uppercase());
    }
    command
}

pub(crate) fn run(sandbox: &Sandbox, hub: &Hub, args: &[&str]) -> Run {
    finish(&mut command(sandbox, hub, args))
}

/// The settings for library calls, with next to no waiting.
pub(crate) fn settings(sandbox: &Sandbox, hub: &Hub) -> Settings {
    Settings {
        endpoint: hub.endpoint.clone(),
        cache: sandbox.path("cache"),
        token: None,
        offline: false,
        retry_wait: Duration::from_millis(1),
    }
}

pub(crate) fn get(reference: &str, want: Want, settings: &Settings) -> Result<Resolved> {
    resolve(&HubReference::parse(reference).unwrap(), want, settings, &Unwatched)
}

pub(crate) fn fails(reference: &str, settings: &Settings) -> Error {
    get(reference, Want::Everything, settings).unwrap_err()
}

/// A message without what differs from run to run.
pub(crate) fn stable(message: &str, sandbox: &Sandbox, hub: &Hub) -> String {
    message.replace(&hub.endpoint, "HUB").replace(sandbox.path("").to_str().unwrap(), "SANDBOX/")
}

/// A running Hub.
pub(crate) struct Hub {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

/// What the Hub holds, how it misbehaves, and what it saw.
#[derive(Default)]
pub(crate) struct State {
    port: u16,
    /// Files by `org/name` and path.
    pub(crate) models: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// So many times more, the bytes of weights stop halfway.
    pub(crate) drops: usize,
    /// Status and `X-Error-Code` of every answer.
    pub(crate) refuses: Option<(u16, &'static str)>,
    /// So many times more, every answer is 503.
    pub(crate) fails: usize,
    /// A byte of weights is another than the hash was taken over.
    pub(crate) damaged: bool,
    /// The listing names files, and says nothing more of them.
    pub(crate) terse: bool,
    /// Ranges are ignored.
    pub(crate) whole: bool,
    /// What the listing says of every size.
    pub(crate) size: Option<u64>,
    /// Requests as `METHOD PATH RANGE TOKEN`, less what is not there.
    pub(crate) log: Vec<String>,
    /// Bytes sent as bodies.
    pub(crate) sent: u64,
}

struct Request {
    method: String,
    path: String,
    range: Option<(usize, Option<usize>)>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The length in the header, and how much of the body is sent.
    sent: usize,
}

impl Hub {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { port, ..State::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { endpoint: format!("http://127.0.0.1:{port}"), state }
    }

    /// Adds a file to a model.
    pub(crate) fn put(&self, model: &str, path: &str, bytes: impl Into<Vec<u8>>) {
        let mut state = self.state.lock().unwrap();
        let files = state.models.entry(model.to_string()).or_default();
        files.insert(path.to_string(), bytes.into());
    }

    /// Looks at the state, or changes it.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// The requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.with(|state| std::mem::take(&mut state.log))
    }
}

fn is_large(path: &str) -> bool {
    [".safetensors", ".bin", ".parquet"].iter().any(|end| path.ends_with(end))
}

/// The tag of a file: SHA-256 of a large one, 40 digits of another.
pub(crate) fn etag(path: &str, bytes: &[u8]) -> String {
    let digest = sha256(bytes);
    if is_large(path) { digest } else { digest[..40].to_string() }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let Some((request, line)) = read(&stream) else { return };
    let answer = {
        let mut state = state.lock().unwrap();
        state.log.push(line);
        let answer = state.answer(&request);
        state.sent += answer.sent as u64;
        answer
    };
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| *name == "Content-Length") {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = &stream;
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    if request.method != "HEAD" {
        let _ = stream.write_all(&answer.body[..answer.sent]);
    }
}

fn read(stream: &TcpStream) -> Option<(Request, String)> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
    let mut line = format!("{method} {path}");
    let mut range = None;
    for header in lines.map_while(std::io::Result::ok).take_while(|header| !header.is_empty()) {
        let (name, value) = header.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                line.push_str(&format!(" {value}"));
                let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
                range = Some((from.parse().ok()?, to.parse().ok()));
            }
            "authorization" => line.push_str(&format!(" {value}")),
            _ => {}
        }
    }
    Some((Request { method, path, range }, line))
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        if self.fails > 0 {
            self.fails -= 1;
            return Answer::of(503, vec![("Retry-After", "0".into())]);
        }
        if let Some((status, code)) = self.refuses {
            let headers = vec![("X-Error-Code", code.into()), ("X-Error-Message", "No.".into())];
            return Answer::of(status, headers);
        }
        let not_found = |code: &str| Answer::of(404, vec![("X-Error-Code", code.into())]);
        let path = request.path.split('?').next().unwrap();
        // Datasets are kept as `datasets/org/name`, and all in one branch.
        let dataset = path.strip_prefix("/api/").filter(|rest| rest.starts_with("datasets/"));
        if let Some(rest) = path.strip_prefix("/api/models/").or(dataset) {
            let (model, revision) = rest.split_once("/revision/").unwrap();
            let revisions: &[&str] = match dataset {
                Some(_) => &["refs%2Fconvert%2Fparquet"],
                None => &["main", "v1", COMMIT],
            };
            return match self.models.get(model) {
                None => not_found("RepoNotFound"),
                Some(_) if !revisions.contains(&revision) => not_found("RevisionNotFound"),
                Some(files) => Answer::json(&self.listing(files)),
            };
        }
        let (stored, rest) = match path.strip_prefix("/stored") {
            Some(rest) => (true, rest),
            None => (false, path),
        };
        let (model, file) = rest[1..].split_once(&format!("/resolve/{COMMIT}/")).unwrap();
        let Some(bytes) = self.models.get(model).and_then(|files| files.get(file)) else {
            return not_found("EntryNotFound");
        };
        if stored {
            return self.bytes(request, file, bytes.clone());
        }
        let quoted = format!("\"{}\"", etag(file, bytes));
        let mut headers = vec![("X-Repo-Commit", COMMIT.to_string())];
        if is_large(file) {
            headers.push(("X-Linked-Etag", quoted));
            headers.push(("X-Linked-Size", bytes.len().to_string()));
            // Another host name, which the token must not reach.
            headers.push(("Location", format!("http://localhost:{}/stored{path}", self.port)));
            Answer::of(302, headers)
        } else {
            headers.push(("ETag", quoted));
            headers.push(("Location", format!("/stored{path}")));
            Answer::of(307, headers)
        }
    }

    /// Bytes of a file, as the storage sends them.
    fn bytes(&mut self, request: &Request, file: &str, mut bytes: Vec<u8>) -> Answer {
        let length = bytes.len();
        let mut headers = vec![("ETag", format!("\"{}\"", etag(file, &bytes)))];
        if self.damaged && is_large(file) {
            *bytes.last_mut().unwrap() ^= 1;
        }
        let mut status = 200;
        if let Some((from, to)) = request.range.filter(|_| !self.whole) {
            let end = to.map_or(length, |to| (to + 1).min(length));
            bytes = bytes[from..end].to_vec();
            headers.push(("Content-Range", format!("bytes {from}-{}/{length}", end - 1)));
            status = 206;
        }
        let mut answer = Answer::of(status, headers);
        answer.sent = bytes.len();
        if request.method == "HEAD" {
            answer.headers.push(("Content-Length", bytes.len().to_string()));
            answer.sent = 0;
        } else if self.drops > 0 && is_large(file) {
            self.drops -= 1;
            answer.sent /= 2;
        }
        answer.body = bytes;
        answer
    }

    fn listing(&self, files: &BTreeMap<String, Vec<u8>>) -> Value {
        let siblings = files.iter().map(|(path, bytes)| {
            let size = self.size.unwrap_or(bytes.len() as u64);
            let mut entry = json!({"rfilename": path});
            if !self.terse {
                entry["size"] = size.into();
                entry["blobId"] = etag("", bytes).into();
                if is_large(path) {
                    entry["lfs"] =
                        json!({"sha256": etag(path, bytes), "size": size, "pointerSize": 134});
                }
            }
            entry
        });
        json!({"id": "org/name", "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>()})
    }
}

impl Answer {
    fn of(status: u16, headers: Vec<(&'static str, String)>) -> Self {
        Self { status, headers, body: Vec::new(), sent: 0 }
    }

    fn json(value: &Value) -> Self {
        let body = value.to_string().into_bytes();
        Self { sent: body.len(), body, ..Self::of(200, Vec::new()) }
    }
}
