use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode, Uri, header};
use futures_util::stream;
use percent_encoding::percent_decode_str;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::engine::block_on;
use crate::repository::Files;

/// How many pieces a second a throttled file comes in.
const PIECES: u64 = 50;

/// An HTTP server for the files of one repository, gone when dropped.
#[derive(Debug)]
pub struct Server {
    port: u16,
    served: Arc<Served>,
    task: JoinHandle<()>,
}

/// What is served, and how.
#[derive(Debug, Default)]
struct Served {
    files: RwLock<Files>,
    /// Bytes a second for packages; `None` does not slow them down.
    rate: RwLock<Option<u64>>,
    /// Held by the piece that is on its way: all who fetch share one line.
    line: Arc<Mutex<()>>,
}

impl Server {
    /// Starts a server without files, on a free port of `address`; where this host does not have that address (a bridge that
    /// is only made for the first container), on all of them.
    pub fn start(address: IpAddr) -> Result<Self> {
        let served = Arc::new(Served::default());
        let serving = Arc::clone(&served);
        block_on(async move {
            let listener = match TcpListener::bind((address, 0)).await {
                Ok(listener) => listener,
                Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.context("no port to listen on")?,
            };
            let port = listener.local_addr()?.port();
            let router = Router::new().fallback(async move |uri: Uri| serving.answer(&decoded(uri.path())));
            let task = tokio::spawn(async move {
                let _ = axum::serve(listener, router).await;
            });
            Ok(Self { port, served, task })
        })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves these files from now on, and no others.
    pub fn serve(&self, files: Files) {
        *self.served.files.write().unwrap_or_else(PoisonError::into_inner) = files;
    }

    /// Serves packages, which lie below `pool/`, at this many bytes a second from now on; as quickly as can be with `None`.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        *self.served.rate.write().unwrap_or_else(PoisonError::into_inner) = bytes_per_second;
    }
}

impl Served {
    fn answer(&self, path: &str) -> Result<Response<Body>, StatusCode> {
        let content = self.files.read().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        let content = Bytes::from(content.ok_or(StatusCode::NOT_FOUND)?);
        let length = content.len();
        let rate = *self.rate.read().unwrap_or_else(PoisonError::into_inner);
        let body = match rate.filter(|_| path.starts_with("pool/")) {
            Some(rate) => slowly(content, rate.max(1), Arc::clone(&self.line)),
            None => Body::from(content),
        };
        let response = Response::builder().header(header::CONTENT_LENGTH, length).body(body);
        response.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// Content that takes its time on a line of this many bytes a second.
fn slowly(content: Bytes, rate: u64, line: Arc<Mutex<()>>) -> Body {
    let size = usize::try_from(rate.div_ceil(PIECES)).unwrap_or(usize::MAX);
    Body::from_stream(stream::unfold(content, move |mut rest| {
        let line = Arc::clone(&line);
        async move {
            if rest.is_empty() {
                return None;
            }
            let piece = rest.split_to(size.min(rest.len()));
            let _on_its_way = line.lock().await;
            tokio::time::sleep(Duration::from_secs(piece.len() as u64) / u32::try_from(rate).unwrap_or(u32::MAX)).await;
            Some((Ok::<_, Infallible>(piece), rest))
        }
    }))
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A path as it was before apt encoded it: `%2b` is a plus.
fn decoded(path: &str) -> String {
    percent_decode_str(path.trim_start_matches('/')).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn packages_take_their_time_at_a_throttled_server_and_indices_do_not() {
        let server = Server::start(Ipv4Addr::LOCALHOST.into()).unwrap();
        let package = vec![7; 20_000];
        server.serve([("pool/a.deb".to_owned(), package.clone()), ("dists/a".to_owned(), package.clone())].into());
        let fetch = |path: &str| {
            let start = Instant::now();
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).unwrap();
            write!(stream, "GET /{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert!(answer.ends_with(&package) && answer.windows(21).any(|part| part == b"content-length: 20000"));
            start.elapsed()
        };
        server.throttle(Some(25_000));
        assert!(fetch("pool/a.deb") >= Duration::from_millis(800));
        assert!(fetch("dists/a") < Duration::from_millis(800));
        server.throttle(None);
        assert!(fetch("pool/a.deb") < Duration::from_millis(800));
    }

    #[test]
    fn paths_are_decoded_as_apt_encodes_them() {
        assert_eq!(decoded("/pool/a_1%2bb1%7erc_all.deb"), "pool/a_1+b1~rc_all.deb");
        assert_eq!(decoded("/100%/%zz"), "100%/%zz");
    }
}
