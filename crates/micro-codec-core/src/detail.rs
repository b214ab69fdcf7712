//! Typed details of an error.

use bytes::BytesMut;
use micro_core::{Detail, Error, Result};

use crate::ProtoMessage;

/// Protobuf messages as details of an [`Error`]: they travel with it, in any language.
///
/// Implemented for [`Error`]; it cannot be implemented by hand.
pub trait ErrorDetail: Sized + sealed::Sealed {
    /// Adds a message as a detail of the type `type_name`, such as `google.rpc.RetryInfo`.
    ///
    /// # Errors
    ///
    /// As [`ProtoMessage::encode`].
    fn with_message(self, type_name: &str, message: &dyn ProtoMessage) -> Result<Self>;

    /// Reads the first detail of the type `type_name`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if its bytes are no such message.
    fn message<T: ProtoMessage + Default>(&self, type_name: &str) -> Result<Option<T>>;
}

impl ErrorDetail for Error {
    fn with_message(self, type_name: &str, message: &dyn ProtoMessage) -> Result<Self> {
        let mut value = BytesMut::with_capacity(message.encoded_len());
        message.encode(&mut value)?;
        let type_url = format!("type.googleapis.com/{type_name}");
        Ok(self.with_detail(Detail::new(type_url, value.freeze())))
    }

    fn message<T: ProtoMessage + Default>(&self, type_name: &str) -> Result<Option<T>> {
        let found = self
            .details()
            .iter()
            .find(|detail| detail.type_url.rsplit('/').next() == Some(type_name));
        let Some(detail) = found else {
            return Ok(None);
        };
        let mut message = T::default();
        message.merge(detail.value.clone())?;
        Ok(Some(message))
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for micro_core::Error {}
}
