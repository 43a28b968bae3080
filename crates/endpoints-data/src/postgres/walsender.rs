//! A connection that streams the log, by the streaming replication protocol: over the same hosts, encryption and login as
//! every other connection.
//!
//! Source: PostgreSQL documentation, "Message Flow" and "Streaming Replication Protocol".

use std::io;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use endpoint::Error;
use model::Class;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_postgres::config::{ChannelBinding, Host};
use tokio_postgres::fallible_iterator::FallibleIterator as _;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect as _};

use super::{Postgres, class_of, log, pgoutput};
use crate::sql;

/// How long a server may be silent before it is asked whether it is there, and before it is taken for gone.
const SILENT: [Duration; 2] = [Duration::from_secs(20), Duration::from_mins(1)];
/// How long a connection may take to be made.
const CONNECTING: Duration = Duration::from_secs(10);
/// Bytes that are read at a time, at least.
const READ: usize = 64 << 10;

/// What the server sends.
#[derive(Debug)]
pub(super) enum Sent {
    /// A message of the output plugin.
    Message(Bytes),
    /// Nothing more up to this place; with whether it is to be told that somebody reads.
    Alive(u64, bool),
}

/// Why a stream could not be opened, or ended.
#[derive(Debug)]
pub(super) enum Broken {
    /// What it was to read is not there any more: the slot, or its publication.
    Lost(String),
    Failed(Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        let failed = Error::new(Class::Transient { after: None }, "the connection that streams the log broke");
        Self::Failed(failed.caused_by(error))
    }
}

/// Returns what a server that does not keep to the protocol is answered with.
fn unexpected(what: &str) -> Broken {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sent {what}")).into()
}

/// Reads why the server refused.
fn refused(body: &ErrorResponseBody) -> Broken {
    let (mut code, mut message) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = text(),
            b'M' => message = text(),
            _ => {}
        }
    }
    match code.as_str() {
        // No such object; a slot that has lost what it was to tell.
        "42704" | "55000" => Broken::Lost(message),
        // Whoever holds the slot lets go of it, or a connection that was cut off is noticed.
        "55006" => Broken::Failed(Error::new(Class::Transient { after: None }, message)),
        _ => Broken::Failed(
            Error::new(class_of(&code), "the log can't be streamed").caused_by(format!("{code}: {message}")),
        ),
    }
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A connection that streams the log of a slot. Dropping it lets go of the slot as soon as the server notices.
pub(super) struct Walsender {
    socket: Box<dyn Socket>,
    read: BytesMut,
    /// Up to where the slot may move.
    reached: u64,
    /// When the server last sent anything.
    heard: Instant,
}

impl Postgres {
    /// Streams the log of a slot from a place, or from where the slot is, if that is later.
    pub(super) async fn stream(&self, slot: &str, from: u64) -> Result<Walsender, Broken> {
        let timeout = self.config.get_connect_timeout().copied().unwrap_or(CONNECTING);
        let mut failed = unexpected("nothing, since no host is given");
        for (at, host) in self.config.get_hosts().iter().enumerate() {
            let ports = self.config.get_ports();
            let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
            match tokio::time::timeout(timeout, self.log_in(host, port)).await {
                Ok(Ok(mut walsender)) => {
                    walsender.start(slot, from).await?;
                    return Ok(walsender);
                }
                Ok(Err(broken)) => failed = broken,
                Err(_) => failed = io::Error::from(io::ErrorKind::TimedOut).into(),
            }
        }
        Err(failed)
    }

    async fn log_in(&self, host: &Host, port: u16) -> Result<Walsender, Broken> {
        let socket: Box<dyn Socket> = match host {
            Host::Unix(folder) => Box::new(UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?),
            Host::Tcp(name) => {
                let mut socket = TcpStream::connect((name.as_str(), port)).await?;
                socket.set_nodelay(true)?;
                match self.tls.clone() {
                    None => Box::new(socket),
                    Some(mut connector) => {
                        let mut request = BytesMut::new();
                        frontend::ssl_request(&mut request);
                        socket.write_all(&request).await?;
                        if socket.read_u8().await? != b'S' {
                            let message = format!("{} does not encrypt connections", self.place);
                            return Err(Broken::Failed(Error::new(Class::Mapping, message)));
                        }
                        let insecure = |error: endpoint::BoxError| {
                            let message = format!("cannot encrypt the connection to {}", self.place);
                            Broken::Failed(Error::new(Class::Transient { after: None }, message).caused_by(error))
                        };
                        let connect = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, name);
                        let connect = connect.map_err(|error| insecure(error.into()))?;
                        Box::new(connect.connect(socket).await.map_err(|error| insecure(error.into()))?)
                    }
                }
            }
        };
        let mut walsender = Walsender { socket, read: BytesMut::new(), reached: 0, heard: Instant::now() };
        walsender.authenticate(&self.config).await?;
        Ok(walsender)
    }
}

impl Walsender {
    async fn authenticate(&mut self, config: &tokio_postgres::Config) -> Result<(), Broken> {
        let denied = |message: &str| Broken::Failed(Error::new(Class::Auth, message));
        // The address and the login are those of other connections, which have a default for the user.
        let user = config.get_user().ok_or_else(|| denied("the url names no user"))?;
        let mut parts = vec![
            ("client_encoding", "UTF8"),
            ("user", user),
            ("database", config.get_dbname().unwrap_or(user)),
            ("replication", "database"),
            ("application_name", config.get_application_name().unwrap_or("bridgehead")),
        ];
        parts.extend(config.get_options().map(|options| ("options", options)));
        let mut message = BytesMut::new();
        frontend::startup_message(parts, &mut message)?;
        let password = || config.get_password().ok_or_else(|| denied("the server wants a password and none is given"));
        let mut scram: Option<sasl::ScramSha256> = None;
        loop {
            self.socket.write_all(&message.split()).await?;
            match self.answer().await? {
                Message::AuthenticationOk => break,
                Message::AuthenticationCleartextPassword => frontend::password_message(password()?, &mut message)?,
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user.as_bytes(), password()?, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut message)?;
                }
                Message::AuthenticationSasl(body) => {
                    let known = body.mechanisms().any(|name| Ok(name == sasl::SCRAM_SHA_256))?;
                    if !known || config.get_channel_binding() == ChannelBinding::Require {
                        return Err(denied("the log is streamed with SCRAM-SHA-256 without channel binding only"));
                    }
                    let begun = sasl::ScramSha256::new(password()?, sasl::ChannelBinding::unsupported());
                    frontend::sasl_initial_response(sasl::SCRAM_SHA_256, begun.message(), &mut message)?;
                    scram = Some(begun);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let begun = scram.as_mut().ok_or_else(|| unexpected("the second step of a login first"))?;
                    begun.update(body.data())?;
                    frontend::sasl_response(begun.message(), &mut message)?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let begun = scram.as_mut().ok_or_else(|| unexpected("the last step of a login first"))?;
                    begun.finish(body.data()).map_err(|_| denied("the server does not know the password itself"))?;
                }
                Message::ErrorResponse(body) => return Err(refused(&body)),
                _ => return Err(denied("the server wants a way of logging in that is not known here")),
            }
        }
        loop {
            match self.answer().await? {
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => return Err(refused(&body)),
                _ => {}
            }
        }
    }

    async fn start(&mut self, slot: &str, from: u64) -> Result<(), Broken> {
        let name = sql::name(slot);
        let command = format!(
            "START_REPLICATION SLOT {name} LOGICAL {} (proto_version '1', publication_names {})",
            log::place(&from.to_string()),
            sql::literal(&name)
        );
        let mut message = BytesMut::new();
        frontend::query(&command, &mut message)?;
        self.socket.write_all(&message).await?;
        self.reached = from;
        loop {
            // The answer to it is one that other connections never get.
            match self.frame().await? {
                (b'W', _) => return Ok(()),
                (b'N' | b'S', _) => {}
                (tag, body) => return Err(Self::ended(tag, &body)?),
            }
        }
    }

    /// Returns what the server sends next. Nothing is lost when it is dropped before.
    pub(super) async fn next(&mut self) -> Result<Sent, Broken> {
        loop {
            let (tag, mut body) = self.frame().await?;
            match (tag, body.first()) {
                // Behind the letter stand two places and a time.
                (b'd', Some(b'w')) if body.len() >= 25 => return Ok(Sent::Message(body.split_off(25).freeze())),
                (b'd', Some(b'k')) if body.len() >= 18 => {
                    body.advance(1);
                    let place = body.get_u64();
                    body.advance(8);
                    return Ok(Sent::Alive(place, body.get_u8() == 1));
                }
                (b'N' | b'S', _) => {}
                (tag, _) => return Err(Self::ended(tag, &body)?),
            }
        }
    }

    /// Tells the server up to where everything has an outcome: it keeps the log from there, and that it is read on.
    pub(super) async fn report(&mut self, reached: u64) -> Result<(), Broken> {
        self.reached = self.reached.max(reached);
        let silent = self.heard.elapsed();
        if silent > SILENT[1] {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the server is silent").into());
        }
        let mut message = BytesMut::with_capacity(39);
        message.put_u8(b'd');
        message.put_u32(38);
        message.put_u8(b'r');
        for _ in ["written", "flushed", "applied"] {
            message.put_u64(self.reached);
        }
        message.put_i64(chrono::Utc::now().timestamp_micros() - pgoutput::EPOCH);
        message.put_u8(u8::from(silent > SILENT[0]));
        self.socket.write_all(&message).await?;
        Ok(())
    }

    /// Ends the stream, and waits until the server has let go of the slot.
    pub(super) async fn close(mut self) {
        let mut message = BytesMut::new();
        frontend::copy_done(&mut message);
        frontend::terminate(&mut message);
        // One that can't be told any more has let go.
        if self.socket.write_all(&message).await.is_ok() {
            let _ = tokio::time::timeout(CONNECTING, async { while self.frame().await.is_ok() {} }).await;
        }
    }

    /// Returns why a stream ended with this message.
    fn ended(tag: u8, body: &[u8]) -> Result<Broken, Broken> {
        if tag != b'E' {
            return Ok(unexpected(&format!("a message of kind {:?} in the middle of the log", char::from(tag))));
        }
        let mut whole = BytesMut::with_capacity(body.len() + 5);
        whole.put_u8(tag);
        whole.put_u32(body.len() as u32 + 4);
        whole.put_slice(body);
        match Message::parse(&mut whole)? {
            Some(Message::ErrorResponse(body)) => Ok(refused(&body)),
            _ => Ok(unexpected("half of an error")),
        }
    }

    /// Reads a message of those that all connections have.
    async fn answer(&mut self) -> Result<Message, Broken> {
        loop {
            if let Some(message) = Message::parse(&mut self.read)? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// Reads a message: its kind, and what stands in it.
    async fn frame(&mut self) -> Result<(u8, BytesMut), Broken> {
        loop {
            if let Some(mut header) = self.read.get(..5) {
                let (tag, length) = (header.get_u8(), header.get_u32() as usize);
                if length < 4 {
                    return Err(unexpected("a message without a length"));
                }
                if self.read.len() > length {
                    let mut body = self.read.split_to(length + 1);
                    body.advance(5);
                    return Ok((tag, body));
                }
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Broken> {
        self.read.reserve(READ);
        if self.socket.read_buf(&mut self.read).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.heard = Instant::now();
        Ok(())
    }
}
