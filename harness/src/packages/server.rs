//! The HTTP server of a repository.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::http::{Response, StatusCode, Uri, header};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use percent_encoding::percent_decode_str;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::packages::repository::Published;
use crate::packages::repository_fault::{Affected, RepositoryFault, ServerFault};
use crate::runtime::block_on;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// How long to wait for the request of a package.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How many pieces a second a slow file comes in.
const PIECES: u32 = 50;

/// How many bytes of a file come before it stalls.
const BEFORE_STALL: usize = 100;

/// The page of a network that requires a login.
const PORTAL: &[u8] = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in.</body></html>\n";

/// An HTTP server for the files of one repository, gone when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    door: Mutex<Door>,
    served: Arc<Mutex<Served>>,
}

/// The port, open or shut.
#[derive(Debug, Default)]
struct Door {
    /// Accepts connections.
    open: Option<JoinHandle<()>>,
    /// Bound and not listening: the port stays ours, and connections are refused.
    shut: Option<TcpSocket>,
}

/// What is served, and how.
#[derive(Debug, Default)]
struct Served {
    published: Published,
    fault: Option<RepositoryFault>,
    /// True once the fault has changed an answer.
    injected: bool,
    /// Holds back the next package that is requested.
    holder: Option<Holder>,
    /// Held while a piece is sent: all downloads share one line.
    line: Arc<tokio::sync::Mutex<()>>,
}

impl Server {
    /// Starts a server without files, on a free port of `address`; where this host does not have that address (a bridge that
    /// is only made for the first container), on all of them.
    pub fn start(address: IpAddr) -> Result<Self> {
        let socket = match bind((address, 0).into()) {
            Ok(socket) => socket,
            Err(_) => bind((Ipv4Addr::UNSPECIFIED, 0).into()).context("no port to listen on")?,
        };
        let server = Self { address: socket.local_addr()?, door: Mutex::default(), served: Arc::default() };
        lock(&server.door).open = Some(server.listen(socket)?);
        Ok(server)
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Serves these files from now on, and no others.
    pub fn serve(&self, published: Published) {
        lock(&self.served).published = published;
    }

    /// Its fault, if it has one.
    #[must_use]
    pub fn fault(&self) -> Option<ServerFault> {
        lock(&self.served).fault.map(|fault| fault.fault)
    }

    /// True if the fault has changed an answer.
    #[must_use]
    pub fn was_injected(&self) -> bool {
        lock(&self.served).injected
    }

    /// Replaces the fault.
    pub fn set_fault(&self, fault: Option<RepositoryFault>) -> Result<()> {
        lock(&self.served).fault = fault;
        let mut door = lock(&self.door);
        if fault.is_some_and(|fault| fault.fault == ServerFault::Unreachable) {
            if let Some(task) = door.open.take() {
                task.abort();
                // Its end is the listener's.
                let _ = block_on(task);
                door.shut = Some(bind(self.address).context("the port is gone")?);
            }
        } else if let Some(socket) = door.shut.take() {
            door.open = Some(self.listen(socket)?);
        }
        Ok(())
    }

    /// Holds back the next package that is requested, except the upgrader's own, until the returned value is dropped.
    pub fn hold(&self) -> Hold {
        let (asked, requested) = mpsc::channel();
        let (release, released) = oneshot::channel();
        lock(&self.served).holder = Some(Holder { asked, released });
        Hold { requested, _release: release }
    }

    fn listen(&self, socket: TcpSocket) -> Result<JoinHandle<()>> {
        let served = Arc::clone(&self.served);
        let router = Router::new().fallback(async move |uri: Uri| {
            let path = decoded(uri.path());
            let holder = if Affected::Packages.include(&path) { lock(&served).holder.take() } else { None };
            if let Some(holder) = holder {
                let _ = holder.asked.send(());
                // An error means that the hold was dropped.
                let _ = holder.released.await;
            }
            lock(&served).answer(&path)
        });
        block_on(async {
            let listener = socket.listen(BACKLOG)?;
            Ok(tokio::spawn(async move {
                let _ = axum::serve(listener, router).await;
            }))
        })
    }
}

/// Holds back a package from the moment when it is requested.
#[derive(Debug)]
pub struct Hold {
    requested: mpsc::Receiver<()>,
    _release: oneshot::Sender<()>,
}

impl Hold {
    /// Waits until a package is requested.
    pub fn asked(&self) -> Result<()> {
        self.requested.recv_timeout(TIMEOUT).context("no package was requested")
    }
}

/// The other side of a [`Hold`].
#[derive(Debug)]
struct Holder {
    asked: mpsc::Sender<()>,
    released: oneshot::Receiver<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(task) = &self.open {
            task.abort();
        }
    }
}

impl Served {
    fn answer(&mut self, path: &str) -> Result<Response<Body>, StatusCode> {
        if Affected::Packages.include(path)
            && let Some(next) = self.published.next.take()
        {
            self.published.files = next;
        }
        let fault = self.fault.as_mut().and_then(|fault| fault.hit(path));
        self.injected |= fault.is_some();
        if let Some(ServerFault::Error(status)) = fault {
            return Err(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
        }
        let content = match fault {
            Some(ServerFault::Html) => Bytes::from_static(PORTAL),
            _ => self.published.files.get(path).cloned().ok_or(StatusCode::NOT_FOUND)?,
        };
        let length = content.len();
        let first = |bytes: usize| content.slice(..bytes.min(length));
        let (length, body) = match fault {
            Some(ServerFault::Truncated) => (length / 2, first(length / 2).into()),
            Some(ServerFault::WrongHash) => (length, with_another_end(&content).into()),
            Some(ServerFault::Stall) => (length, begun(first(BEFORE_STALL.min(length / 2)), stream::pending())),
            Some(ServerFault::Cut(bytes)) => (length, begun(first(bytes), cut())),
            Some(ServerFault::Slow(rate)) => (length, slowly(content, rate.max(1), Arc::clone(&self.line))),
            _ => (length, content.into()),
        };
        let response = Response::builder().header(header::CONTENT_LENGTH, length).body(body);
        response.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// A bound socket that does not listen.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Old connections may still have the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same number of bytes, of which the last one is another.
fn with_another_end(content: &[u8]) -> Bytes {
    let mut changed = BytesMut::from(content);
    if let Some(last) = changed.last_mut() {
        *last ^= 1;
    }
    changed.freeze()
}

/// The beginning of some content, and what is sent instead of the rest.
fn begun(beginning: Bytes, rest: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    Body::from_stream(stream::iter([Ok(beginning)]).chain(rest))
}

/// The end of a connection, once all before it is sent.
fn cut() -> impl Stream<Item = io::Result<Bytes>> {
    stream::once(async {
        tokio::task::yield_now().await;
        Err(io::ErrorKind::ConnectionAborted.into())
    })
}

/// Content that is sent at this many bytes a second.
fn slowly(content: Bytes, rate: u32, line: Arc<tokio::sync::Mutex<()>>) -> Body {
    let size = rate.div_ceil(PIECES) as usize;
    Body::from_stream(stream::unfold(content, move |mut rest| {
        let line = Arc::clone(&line);
        async move {
            if rest.is_empty() {
                return None;
            }
            let piece = rest.split_to(size.min(rest.len()));
            let _sending = line.lock().await;
            tokio::time::sleep(Duration::from_secs(piece.len() as u64) / rate).await;
            Some((io::Result::Ok(piece), rest))
        }
    }))
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

    static CONTENT: [u8; 20_000] = [7; 20_000];

    /// A server with a package and a fault.
    fn server(fault: RepositoryFault) -> Server {
        let server = Server::start(Ipv4Addr::LOCALHOST.into()).unwrap();
        let files = ["pool/a.deb", "dists/a"].map(|path| (path.to_owned(), Bytes::from_static(&CONTENT)));
        server.serve(Published { files: files.into(), next: None });
        server.set_fault(Some(fault)).unwrap();
        server
    }

    /// Requests a file, and returns head and body of the answer once the connection is closed or, if the answer stalls, once nothing has
    /// come for a second.
    fn request(server: &Server, path: &str, stalls: bool) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).unwrap();
        stream.set_read_timeout(stalls.then_some(Duration::from_secs(1))).unwrap();
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).map_err(|error| error.kind());
        assert_eq!(ended.err(), stalls.then_some(io::ErrorKind::WouldBlock));
        let end = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("an answer") + 4;
        (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end..].to_vec())
    }

    fn fetch(server: &Server, path: &str) -> (String, Vec<u8>) {
        request(server, path, false)
    }

    #[test]
    fn affected_files_come_slowly_and_others_do_not() {
        let server = server(RepositoryFault::new(ServerFault::Slow(25_000), Affected::Packages));
        let time = |path| {
            let start = Instant::now();
            assert_eq!(fetch(&server, path).1, CONTENT);
            start.elapsed()
        };
        assert!(time("pool/a.deb") >= Duration::from_millis(800));
        assert!(time("dists/a") < Duration::from_millis(800));
        assert!(server.was_injected());
        server.set_fault(None).unwrap();
        assert!(time("pool/a.deb") < Duration::from_millis(800));
    }

    #[test]
    fn a_status_is_sent_for_the_given_number_of_requests() {
        let server = server(RepositoryFault::new(ServerFault::Error(503), Affected::Packages).times(2));
        assert_eq!(fetch(&server, "dists/a").1, CONTENT);
        assert!(!server.was_injected());
        for _ in 0..2 {
            let (head, body) = fetch(&server, "pool/a.deb");
            assert!(head.starts_with("HTTP/1.1 503 ") && body.is_empty(), "{head}");
        }
        assert_eq!(fetch(&server, "pool/a.deb").1, CONTENT);
    }

    #[test]
    fn a_faulty_file_has_the_announced_length_and_the_sent_bytes_of_its_fault() {
        let wrong = [&CONTENT[..19_999], &[6]].concat();
        for (fault, path, announced, sent) in [
            // Over a connection that stays open.
            (ServerFault::Stall, "pool/a.deb", 20_000, &CONTENT[..BEFORE_STALL]),
            (ServerFault::Cut(0), "pool/a.deb", 20_000, &[]),
            (ServerFault::Cut(100), "pool/a.deb", 20_000, &CONTENT[..100]),
            (ServerFault::Cut(19_999), "pool/a.deb", 20_000, &CONTENT[..19_999]),
            (ServerFault::WrongHash, "pool/a.deb", 20_000, &wrong),
            (ServerFault::Truncated, "pool/a.deb", 10_000, &CONTENT[..10_000]),
            (ServerFault::Html, "no/such/file", PORTAL.len(), PORTAL),
        ] {
            let (head, body) = request(&server(fault.into()), path, fault == ServerFault::Stall);
            let length = format!("content-length: {announced}\r\n");
            assert!(head.starts_with("HTTP/1.1 200 ") && head.contains(&length), "{fault:?}: {head}");
            assert_eq!(body, sent, "{fault:?}");
        }
    }

    #[test]
    fn an_unreachable_server_refuses_connections_until_the_fault_is_cleared() {
        let server = server(ServerFault::Unreachable.into());
        for _ in 0..2 {
            let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            server.set_fault(Some(ServerFault::Unreachable.into())).unwrap();
        }
        server.set_fault(None).unwrap();
        assert_eq!(fetch(&server, "pool/a.deb").1, CONTENT);
    }

    #[test]
    fn a_repository_changes_when_a_package_is_requested() {
        let server = Server::start(Ipv4Addr::LOCALHOST.into()).unwrap();
        let files = |content: &'static str| ("dists/a".to_owned(), Bytes::from(content));
        server.serve(Published { files: [files("old")].into(), next: Some([files("new")].into()) });
        for (path, then) in [("dists/a", "old"), ("pool/xivo-upgrade_1_all.deb", "old"), ("pool/a_1_all.deb", "new")] {
            fetch(&server, path);
            assert_eq!(fetch(&server, "dists/a").1, then.as_bytes(), "after {path}");
        }
    }

    #[test]
    fn paths_are_decoded_as_apt_encodes_them() {
        assert_eq!(decoded("/pool/a_1%2bb1%7erc_all.deb"), "pool/a_1+b1~rc_all.deb");
        assert_eq!(decoded("/100%/%zz"), "100%/%zz");
    }
}
