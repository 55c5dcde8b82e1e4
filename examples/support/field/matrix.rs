//! Six weeks of one technician: the same week, with another clock and with or without an unlock.

use super::words::length;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tower_reauth::{
    AuthEvent, BoxError, Denial, Grants, ManualClock, MemoryStore, OfflinePolicy, RefreshError, Session, SignIn,
    Tokens, observer_fn, refresh_fn,
};

/// What the user does to the clock before each question.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WallClock {
    Honest,
    /// Set back to Monday.
    TurnedBack,
    /// Set back to Monday, and the device is started again.
    TurnedBackAndRestarted,
}

pub(crate) struct Week {
    pub(crate) clock: WallClock,
    /// The user unlocks just before each question.
    pub(crate) unlocked: bool,
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Row {
    pub(crate) capability: String,
    /// One for each moment.
    pub(crate) answers: Vec<Result<(), Denial>>,
}

pub(crate) struct Matrix {
    /// The columns.
    pub(crate) moments: Vec<String>,
    pub(crate) weeks: Vec<Week>,
    /// How often the gate was asked, and how many answers the audit saw.
    pub(crate) asked: u64,
    pub(crate) audited: u64,
}

pub(crate) async fn play(policy: &OfflinePolicy, offline: &[Duration], grants: &Grants) -> Result<Matrix, BoxError> {
    let moments = std::iter::once("online".to_owned())
        .chain(offline.iter().map(|away| length(*away)))
        .chain(["back online".to_owned()])
        .collect();
    let audited = Arc::new(AtomicU64::new(0));
    let mut weeks = Vec::new();
    for clock in [WallClock::Honest, WallClock::TurnedBack, WallClock::TurnedBackAndRestarted] {
        for unlocked in [true, false] {
            let device = Device::new(policy.clone(), audited.clone());
            weeks.push(Week { clock, unlocked, rows: device.week(clock, unlocked, offline, grants).await? });
        }
    }
    let asked = weeks.iter().flat_map(|week| &week.rows).map(|row| row.answers.len() as u64).sum();
    Ok(Matrix { moments, weeks, asked, audited: audited.load(Relaxed) })
}

/// Monday, eight o'clock.
fn monday() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_799_049_600)
}

/// A device and its user; the server is wherever `online` says.
struct Device {
    policy: OfflinePolicy,
    clock: ManualClock,
    store: MemoryStore,
    online: Arc<AtomicBool>,
    /// Seconds since Monday, by the server's clock, which nobody here can turn.
    elapsed: Arc<AtomicU64>,
    audited: Arc<AtomicU64>,
}

impl Device {
    fn new(policy: OfflinePolicy, audited: Arc<AtomicU64>) -> Self {
        Self {
            policy,
            clock: ManualClock::new(monday()),
            store: MemoryStore::new(),
            online: Arc::new(AtomicBool::new(true)),
            elapsed: Arc::default(),
            audited,
        }
    }

    /// The application starts.
    async fn open(&self) -> Result<Session, BoxError> {
        let (online, elapsed, audited) = (self.online.clone(), self.elapsed.clone(), self.audited.clone());
        let refresher = refresh_fn(move |_| {
            let answer = match online.load(Relaxed) {
                true => Ok(tokens(&elapsed)),
                false => Err(RefreshError::transient("no network")),
            };
            std::future::ready(answer)
        });
        let online = self.online.clone();
        let session = Session::builder(refresher)
            .store(self.store.clone())
            .clock(self.clock.clone())
            .connectivity(move || Some(online.load(Relaxed)))
            .gate(self.policy.clone())
            .observer(observer_fn(move |event| {
                let answer = matches!(event, AuthEvent::Permitted { .. } | AuthEvent::Denied { .. });
                audited.fetch_add(u64::from(answer), Relaxed);
            }))
            .open("technician")
            .await?;
        Ok(session)
    }

    async fn week(
        &self,
        clock: WallClock,
        unlocked: bool,
        offline: &[Duration],
        grants: &Grants,
    ) -> Result<Vec<Row>, BoxError> {
        let mut rows: Vec<_> =
            self.policy.capabilities().map(|name| Row { capability: name.to_string(), answers: Vec::new() }).collect();
        let mut session = self.open().await?;
        session.sign_in(SignIn::new(tokens(&self.elapsed)).grants(grants.clone())).await?;
        ask(&session, unlocked, &mut rows);

        self.online.store(false, Relaxed);
        let mut away = Duration::ZERO;
        for until in offline {
            self.pass(*until - away);
            away = *until;
            session = self.tamper(session, clock).await?;
            ask(&session, unlocked, &mut rows);
        }

        self.online.store(true, Relaxed);
        session.reconnected();
        session.refresh().await?;
        ask(&session, unlocked, &mut rows);
        session.close().await?;
        Ok(rows)
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.elapsed.fetch_add(time.as_secs(), Relaxed);
    }

    async fn tamper(&self, session: Session, clock: WallClock) -> Result<Session, BoxError> {
        let restarted = clock == WallClock::TurnedBackAndRestarted;
        if restarted {
            session.close().await?; // keeps the mark of trusted time
            self.clock.reboot();
        }
        if clock != WallClock::Honest {
            self.clock.set_wall(monday());
        }
        if restarted { self.open().await } else { Ok(session) }
    }
}

fn tokens(elapsed: &AtomicU64) -> Tokens {
    let date = monday() + Duration::from_secs(elapsed.load(Relaxed));
    Tokens::new("access").with_refresh_token("refresh").with_expires_in(Duration::from_secs(3600)).with_date(date)
}

fn ask(session: &Session, unlocked: bool, rows: &mut [Row]) {
    if unlocked {
        session.step_up(Duration::from_secs(7 * 86_400)); // how long it counts for what is the policy's business
    }
    for row in rows {
        row.answers.push(session.authorize(row.capability.clone()).map(drop));
    }
}

impl Week {
    pub(crate) fn title(&self) -> String {
        let clock = match self.clock {
            WallClock::Honest => "the clock is honest",
            WallClock::TurnedBack => "the clock is turned back to Monday each time",
            WallClock::TurnedBackAndRestarted => {
                "the device is restarted with its clock turned back to Monday each time"
            }
        };
        format!("{}; {clock}", if self.unlocked { "unlocked just before" } else { "not unlocked" })
    }
}

impl Matrix {
    /// The denials that occur, one for each reason.
    pub(crate) fn reasons(&self) -> Vec<&Denial> {
        let mut found: Vec<&Denial> = Vec::new();
        for denial in
            self.weeks.iter().flat_map(|week| &week.rows).flat_map(|row| &row.answers).flat_map(|it| it.as_ref().err())
        {
            if found.iter().all(|known| known.reason() != denial.reason()) {
                found.push(denial);
            }
        }
        found
    }
}
