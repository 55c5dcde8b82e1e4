//! The client that everybody writes: the tokens in a file; read it, refresh when they have expired, write it back.
//!
//! It is not written to look bad. The file is replaced in one piece, is read before every request, and within a process one
//! refresh runs at a time. What it lacks is one thing: that only one *process* refreshes at a time.

use super::{LIFETIME, child::Http, diary::Diary};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Mutex;
use tower_reauth::{BoxError, Tokens};

/// As the session: so long before its end a token is not used any more.
const EARLY: Duration = Duration::from_millis(200);

#[derive(Serialize, Deserialize)]
struct Saved {
    /// Counts the sign-ins. For the diary alone: it tells whether somebody has signed in since.
    login: u64,
    access_token: String,
    refresh_token: String,
    expires_at: SystemTime,
}

/// What a token endpoint answers.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    refresh_token: String,
    expires_in: u64,
}

fn write(path: &Path, saved: &Saved) -> Result<(), BoxError> {
    let new = path.with_extension(std::process::id().to_string());
    fs::write(&new, serde_json::to_vec(saved)?)?;
    Ok(fs::rename(new, path)?)
}

/// The user signs in.
pub(crate) fn sign_in(path: &Path, login: u64, tokens: &Tokens) -> Result<(), BoxError> {
    let refresh_token = tokens.refresh_token().ok_or("no refresh token")?.expose().to_owned();
    let access_token = tokens.access_token().expose().to_owned();
    write(path, &Saved { login, access_token, refresh_token, expires_at: SystemTime::now() + LIFETIME })
}

#[derive(Clone)]
pub(crate) struct Api {
    http: Http,
    path: PathBuf,
    origin: String,
    diary: Diary,
    /// Held while refreshing; the sign-in that was lost last.
    lost: Arc<Mutex<u64>>,
}

impl Api {
    pub(crate) fn new(path: PathBuf, origin: &str, http: Http, diary: Diary) -> Self {
        Self { http, path, origin: origin.to_owned(), diary, lost: Arc::default() }
    }

    /// One request, with notes of what became of it.
    pub(crate) async fn call(&self) -> Result<(), BoxError> {
        let failure = match self.token(None).await? {
            None => Some("signed out".into()),
            Some(token) => match self.get(&token).await? {
                StatusCode::OK => None,
                // The server knows better than the clock: once more with another token.
                StatusCode::UNAUTHORIZED => match self.token(Some(&token)).await? {
                    None => Some("signed out".into()),
                    Some(token) => Some(self.get(&token).await?).filter(|it| !it.is_success()).map(|it| it.to_string()),
                },
                status => Some(status.to_string()),
            },
        };
        self.diary.ends(failure);
        Ok(())
    }

    async fn get(&self, token: &str) -> Result<StatusCode, BoxError> {
        let authorization = HeaderValue::try_from(format!("Bearer {token}"))?;
        self.diary.sends(&authorization);
        let request = Request::get(format!("{}/jobs", self.origin)).header(header::AUTHORIZATION, authorization);
        let answer = self.http.request(request.body(Full::default())?).await?;
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED {
            self.diary.is_revoked();
        }
        answer.into_body().collect().await?;
        Ok(status)
    }

    /// A token that has not expired and is not the `refused` one; `None`: the user has to sign in.
    async fn token(&self, refused: Option<&str>) -> Result<Option<String>, BoxError> {
        let asked = Instant::now();
        let usable =
            |saved: &Saved| refused != Some(&*saved.access_token) && SystemTime::now() + EARLY < saved.expires_at;
        let saved = self.read()?;
        if usable(&saved) {
            return Ok(Some(saved.access_token));
        }
        let mut lost = self.lost.lock().await;
        let mut saved = self.read()?; // another task may have refreshed meanwhile
        if !usable(&saved) {
            if saved.login <= *lost {
                return Ok(None);
            }
            match self.refresh(&saved.refresh_token).await? {
                Some(answer) => {
                    saved.access_token = answer.access_token;
                    saved.refresh_token = answer.refresh_token;
                    saved.expires_at = SystemTime::now() + Duration::from_secs(answer.expires_in);
                    write(&self.path, &saved)?;
                }
                None => {
                    *lost = saved.login;
                    self.diary.logged_out();
                    return Ok(None);
                }
            }
        }
        self.diary.waited(asked);
        Ok(Some(saved.access_token))
    }

    fn read(&self) -> Result<Saved, BoxError> {
        Ok(serde_json::from_slice(&fs::read(&self.path)?)?)
    }

    /// RFC 6749 §6; `None`: `invalid_grant`.
    async fn refresh(&self, token: &str) -> Result<Option<Answer>, BoxError> {
        let form = format!("grant_type=refresh_token&client_id=fleet&refresh_token={token}");
        let request = Request::post(format!("{}/token", self.origin))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(form)))?;
        let answer = self.http.request(request).await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?)),
            StatusCode::BAD_REQUEST => Ok(None),
            status => Err(format!("the token endpoint answered {status}").into()),
        }
    }
}
