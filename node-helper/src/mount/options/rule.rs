//! What may follow an option's name.

/// What may follow an option's name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    /// Nothing.
    None,
    /// A decimal number.
    Number,
    /// A decimal number with an optional unit k, m or g.
    Size,
    /// An octal number of at most four digits.
    Octal,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Nothing or one of these words.
    Optional(&'static [&'static str]),
}

impl Value {
    /// Whether `text`, or nothing, may follow.
    pub(super) fn accepts(self, text: Option<&str>) -> bool {
        match (self, text) {
            (Self::None | Self::Optional(_), None) => true,
            (Self::Number, Some(text)) => is_number(text),
            (Self::Octal, Some(text)) => {
                (1..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte))
            }
            (Self::Size, Some(text)) => {
                is_number(text.strip_suffix(['k', 'm', 'g', 'K', 'M', 'G']).unwrap_or(text))
            }
            (Self::Word(words) | Self::Optional(words), Some(text)) => words.contains(&text),
            (Self::None, Some(_)) | (Self::Number | Self::Octal | Self::Size | Self::Word(_), None) => false,
        }
    }

    /// What it wants, in words that follow the option's name.
    pub(super) fn wants(self) -> String {
        match self {
            Self::None => "takes no value".to_owned(),
            Self::Number => "needs a number".to_owned(),
            Self::Octal => "needs an octal number like 0755".to_owned(),
            Self::Size => "needs a number, with k, m or g".to_owned(),
            Self::Word(words) => format!("needs one of {}", words.join(", ")),
            Self::Optional(words) => format!("needs nothing or one of {}", words.join(", ")),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u32>().is_ok()
}
