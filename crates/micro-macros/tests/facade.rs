//! Both macros together, against the facade itself.

use micro::{Client, Context, ErrorKind, RawBytes, Result, Service, Streaming};
use serde::{Deserialize, Serialize};

/// Travels as protobuf, and as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, micro::Message)]
struct Word {
    text: String,
}

/// Travels as JSON alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shout {
    Soft(String),
    Loud { text: String, times: u8 },
}

/// Echoes.
#[micro::service(package = "echo.v1", name = "Echo")]
trait Echoes {
    async fn say(&self, cx: &Context, word: Word) -> Result<Word>;
    async fn shout(&self, cx: &Context, shout: Shout) -> Result<Shout>;
    async fn mixed(&self, cx: &Context, shout: Shout) -> Result<Word>;
    async fn raw(&self, cx: &Context, bytes: RawBytes) -> Result<RawBytes>;
    async fn repeat(&self, cx: &Context, word: Word) -> Result<Streaming<Word>>;
    async fn join(&self, cx: &Context, words: Streaming<Word>) -> Result<Word>;
    #[micro(name = "Talk")]
    async fn chat(&self, cx: &Context, words: Streaming<Word>) -> Result<Streaming<Word>>;
}

struct Wall;

impl Echoes for Wall {
    async fn say(&self, _: &Context, word: Word) -> Result<Word> {
        Ok(word)
    }
    async fn shout(&self, _: &Context, shout: Shout) -> Result<Shout> {
        Ok(shout)
    }
    async fn mixed(&self, _: &Context, shout: Shout) -> Result<Word> {
        match shout {
            Shout::Soft(text) => Ok(Word { text }),
            Shout::Loud { .. } => Err(micro::Error::invalid_argument("too loud")),
        }
    }
    async fn raw(&self, _: &Context, bytes: RawBytes) -> Result<RawBytes> {
        Ok(bytes)
    }
    async fn repeat(&self, _: &Context, word: Word) -> Result<Streaming<Word>> {
        Ok(Streaming::from_iter(vec![word; 2]))
    }
    async fn join(&self, _: &Context, words: Streaming<Word>) -> Result<Word> {
        let words = words.collect(9).await?;
        Ok(Word {
            text: words.into_iter().map(|word| word.text).collect(),
        })
    }
    async fn chat(&self, _: &Context, words: Streaming<Word>) -> Result<Streaming<Word>> {
        Ok(words)
    }
}

fn word(text: &str) -> Word {
    Word { text: text.into() }
}

async fn check(echo: impl Echoes) {
    let cx = &Context::new();
    let many = || Streaming::from_iter([word("a"), word("b")]);
    assert_eq!(echo.say(cx, word("x")).await.unwrap(), word("x"));
    let loud = Shout::Loud {
        text: "x".into(),
        times: 3,
    };
    assert_eq!(echo.shout(cx, loud.clone()).await.unwrap(), loud);
    let soft = Shout::Soft("x".into());
    assert_eq!(echo.mixed(cx, soft).await.unwrap(), word("x"));
    let err = echo.mixed(cx, loud).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    let bytes = RawBytes(vec![0, 1, 2].into());
    assert_eq!(echo.raw(cx, bytes.clone()).await.unwrap(), bytes);
    let repeated = echo.repeat(cx, word("x")).await.unwrap();
    assert_eq!(repeated.collect(9).await.unwrap(), [word("x"), word("x")]);
    assert_eq!(echo.join(cx, many()).await.unwrap(), word("ab"));
    let talked = echo.chat(cx, many()).await.unwrap();
    assert_eq!(talked.collect(9).await.unwrap(), [word("a"), word("b")]);
}

#[tokio::test]
async fn a_contract_is_called_through_the_facade() {
    let service = Service::new("echo")
        .registry_url("memory")
        .transport_url("memory")
        .handle(EchoesServer::new(Wall))
        .start()
        .await
        .unwrap();
    let client: Client = service.client().await.unwrap();
    let echo = EchoesClient::new(client.clone(), "echo");
    // The client within the facade's is taken too.
    let _: EchoesClient = EchoesClient::new((*client).clone(), "echo");
    assert!(
        format!("{echo:?}").contains("/echo.v1.Echo/Talk"),
        "{echo:?}"
    );
    check(echo).await;
    check(Wall).await;
    service.stop().await.unwrap();
}
