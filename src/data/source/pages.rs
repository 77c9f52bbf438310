//! Texts and integers of a page of parquet. The parquet crate reads the file's structure and
//! decompresses pages; its decoders of values panic on damaged ones, and so values are decoded here.
//!
//! Source: <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

use parquet::basic::Encoding;
use parquet::column::page::Page;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use std::ops::Range;

/// Places of a page that may be in memory at once: a few bytes of a damaged one can claim any number.
const PLACES: u32 = 1 << 26;

/// How the values of a column lie one after the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each after its length in bytes.
    Text,
    /// So many bytes each, the lowest first.
    Integer(usize),
}

impl Layout {
    /// The place of the value that begins at `at`; it is in `bytes`.
    fn plain(self, bytes: &[u8], at: &mut usize) -> Option<Range<usize>> {
        match self {
            Self::Text => plain(bytes, at),
            Self::Integer(width) => take(at, width).filter(|range| range.end <= bytes.len()),
        }
    }
}

/// Values that pages of a column refer to by number.
pub(super) struct Dictionary {
    data: ByteArray,
    values: Vec<Range<usize>>,
}

impl Dictionary {
    pub(super) fn new(page: &Page, layout: Layout) -> Result<Self, ParquetError> {
        let data = ByteArray::from(page.buffer().clone());
        let (mut values, mut at) = (Vec::new(), 0);
        for _ in 0..page.num_values() {
            values.push(layout.plain(data.data(), &mut at).ok_or_else(cut_off)?);
        }
        Ok(Self { data, values })
    }
}

/// The values of a page that are not null, one after the other.
pub(super) struct ValuePage {
    data: ByteArray,
    layout: Layout,
    /// Of what comes next in the data.
    at: usize,
    /// Values to come.
    left: u64,
    values: Values,
}

enum Values {
    Plain,
    Dictionary(Hybrid),
    /// All lengths, then all texts.
    Lengths(Delta),
    /// How many bytes each shares with the one before, the lengths of the rest, then all rests.
    Prefixes {
        prefixes: Delta,
        lengths: Delta,
        text: Vec<u8>,
    },
    /// Integers, and the bytes of the last one that was read.
    Numbers {
        numbers: Delta,
        bytes: [u8; 8],
    },
}

impl ValuePage {
    /// Of texts. `max_level` is the definition level of a value that is not null.
    pub(super) fn new(page: &Page, max_level: i16) -> Result<Self, ParquetError> {
        let data = ByteArray::from(page.buffer().clone());
        let bytes = data.data();
        let (at, left) = match page {
            Page::DataPageV2 {
                num_values,
                num_nulls,
                def_levels_byte_len,
                rep_levels_byte_len,
                ..
            } => {
                let levels = *def_levels_byte_len as usize + *rep_levels_byte_len as usize;
                (levels, u64::from(num_values.checked_sub(*num_nulls).ok_or_else(cut_off)?))
            }
            Page::DataPage { num_values, def_level_encoding, .. } if max_level > 0 => {
                if *def_level_encoding != Encoding::RLE {
                    return Err(ParquetError::NYI(format!("levels in {def_level_encoding}")));
                }
                defined(bytes, *num_values, max_level).ok_or_else(cut_off)?
            }
            _ => (0, u64::from(page.num_values())),
        };
        Self::of_values(page, Layout::Text, data, at, left)
    }

    /// The values of a page of a column that may repeat, and how each place of it stands: its
    /// repetition level, which is 0 where a row begins, and whether there is a value.
    pub(super) fn nested(
        page: &Page,
        layout: Layout,
        max_repetition: i16,
        max_level: i16,
    ) -> Result<(Self, Vec<(u32, bool)>), ParquetError> {
        let data = ByteArray::from(page.buffer().clone());
        let (mut at, bytes, count) = (0, data.data(), page.num_values());
        let [repetitions, definitions] = match page {
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                [rep_levels_byte_len, def_levels_byte_len]
                    .map(|length| take(&mut at, *length as usize).unwrap_or(0..0))
            }
            Page::DataPage { def_level_encoding, rep_level_encoding, .. } => {
                let mut part = |encoding: &Encoding, most: i16| match (encoding, most) {
                    (_, 0) => Ok(0..0),
                    (Encoding::RLE, _) => plain(bytes, &mut at).ok_or_else(cut_off),
                    _ => Err(ParquetError::NYI(format!("levels in {encoding}"))),
                };
                [part(rep_level_encoding, max_repetition)?, part(def_level_encoding, max_level)?]
            }
            Page::DictionaryPage { .. } => return Err(cut_off()),
        };
        if count > PLACES {
            return Err(ParquetError::NYI(format!("a page of {count} places")));
        }
        let levels = |part, most| {
            let levels = bytes.get::<Range<usize>>(part).and_then(|it| levels(it, count, most));
            levels.ok_or_else(cut_off)
        };
        let both = levels(repetitions, max_repetition)?.zip(levels(definitions, max_level)?);
        let place = |(repetition, definition): (Option<u32>, Option<u32>)| {
            Some((repetition?, definition? == max_level as u32))
        };
        let places: Vec<(u32, bool)> =
            both.map(place).collect::<Option<_>>().ok_or_else(cut_off)?;
        let left = places.iter().filter(|(_, is_there)| *is_there).count();
        Ok((Self::of_values(page, layout, data, at, left as u64)?, places))
    }

    /// Of values that start at a byte of the page.
    fn of_values(
        page: &Page,
        layout: Layout,
        data: ByteArray,
        mut at: usize,
        left: u64,
    ) -> Result<Self, ParquetError> {
        let bytes = data.data();
        let values = match page.encoding() {
            Encoding::PLAIN => Some(Values::Plain),
            // A page without a value may be without its width.
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY if left > 0 => {
                bytes.get(at).and_then(|width| Hybrid::new(at + 1, *width)).map(Values::Dictionary)
            }
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => Some(Values::Plain),
            Encoding::DELTA_LENGTH_BYTE_ARRAY if layout == Layout::Text => {
                Delta::new(bytes, &mut at, left).map(Values::Lengths)
            }
            Encoding::DELTA_BYTE_ARRAY if layout == Layout::Text => {
                Delta::new(bytes, &mut at, left).and_then(|prefixes| {
                    let lengths = Delta::new(bytes, &mut at, left)?;
                    Some(Values::Prefixes { prefixes, lengths, text: Vec::new() })
                })
            }
            Encoding::DELTA_BINARY_PACKED if layout != Layout::Text => {
                let numbers = Delta::new(bytes, &mut at, left);
                numbers.map(|numbers| Values::Numbers { numbers, bytes: [0; 8] })
            }
            other => return Err(ParquetError::NYI(format!("such values in {other}"))),
        };
        Ok(Self { values: values.ok_or_else(cut_off)?, data, layout, at, left })
    }

    /// The bytes of the next value, as they were written; none after the last.
    pub(super) fn next<'a>(
        &'a mut self,
        dictionary: Option<&'a Dictionary>,
    ) -> Result<Option<&'a [u8]>, ParquetError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.value(dictionary).map(Some).ok_or_else(cut_off)
    }

    fn value<'a>(&'a mut self, dictionary: Option<&'a Dictionary>) -> Option<&'a [u8]> {
        let data = self.data.data();
        match &mut self.values {
            Values::Plain => data.get(self.layout.plain(data, &mut self.at)?),
            Values::Dictionary(indexes) => {
                let dictionary = dictionary?;
                let range = dictionary.values.get(indexes.next(data)? as usize)?;
                dictionary.data.data().get(range.clone())
            }
            Values::Lengths(lengths) => {
                let length = lengths.next(data)?.try_into().ok()?;
                data.get(take(&mut self.at, length)?)
            }
            Values::Prefixes { prefixes, lengths, text } => {
                let prefix = prefixes.next(data)?.try_into().ok()?;
                let length = lengths.next(data)?.try_into().ok()?;
                let rest = data.get(take(&mut self.at, length)?)?;
                text.get(..prefix)?;
                text.truncate(prefix);
                text.extend_from_slice(rest);
                Some(text)
            }
            Values::Numbers { numbers, bytes } => {
                // Of 32 bits, which wrap around as well, these are the lower half.
                *bytes = numbers.next(data)?.to_le_bytes();
                match self.layout {
                    Layout::Integer(width) => bytes.get(..width),
                    Layout::Text => None,
                }
            }
        }
    }
}

fn cut_off() -> ParquetError {
    ParquetError::General("a page's values do not fit the page".into())
}

fn take(at: &mut usize, length: usize) -> Option<Range<usize>> {
    let start = *at;
    *at = start.checked_add(length)?;
    Some(start..*at)
}

/// A text after its length in four bytes; its place, which is in `bytes`.
fn plain(bytes: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let length = bytes.get(take(at, 4)?)?.try_into().ok().map(u32::from_le_bytes)?;
    let range = take(at, length as usize)?;
    bytes.get(range.clone())?;
    Some(range)
}

/// Where the values start in a page of the first version, and how many are not null.
fn defined(bytes: &[u8], count: u32, max_level: i16) -> Option<(usize, u64)> {
    let mut at = 0;
    let part = plain(bytes, &mut at)?;
    let mut values = 0;
    for level in levels(bytes.get(part)?, count, max_level)? {
        values += u64::from(level? == max_level as u32);
    }
    Some((at, values))
}

/// So many levels, from 0 to the highest; none from where the bytes end.
fn levels(
    bytes: &[u8],
    count: u32,
    highest: i16,
) -> Option<impl Iterator<Item = Option<u32>> + '_> {
    let width = 16 - highest.leading_zeros();
    let mut hybrid = Hybrid::new(0, width as u8)?;
    // Where there is but one level, nothing is written.
    Some((0..count).map(move |_| if highest == 0 { Some(0) } else { hybrid.next(bytes) }))
}

/// Up to 64 bits, the lowest first.
fn bits(bytes: &[u8], bit: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(bit / 8..bit.checked_add(width)?.div_ceil(8))?;
    let word = bytes.iter().rev().fold(0u128, |word, byte| word << 8 | u128::from(*byte));
    Some((word >> (bit % 8) & ((1 << width) - 1)) as u64)
}

/// Seven bits a byte, the lowest first.
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// With the sign in the lowest bit.
fn zigzag(bytes: &[u8], at: &mut usize) -> Option<i64> {
    varint(bytes, at).map(|value| (value >> 1) as i64 ^ -((value & 1) as i64))
}

/// Small numbers, as runs of one number and runs of bits.
struct Hybrid {
    /// Of the next run.
    at: usize,
    width: usize,
    /// Numbers of the current run to come.
    left: u64,
    /// What the run repeats, or else the bit of its next number.
    repeated: Option<u32>,
    bit: usize,
}

impl Hybrid {
    fn new(at: usize, width: u8) -> Option<Self> {
        (width <= 32).then_some(Self { at, width: width.into(), left: 0, repeated: None, bit: 0 })
    }

    fn next(&mut self, bytes: &[u8]) -> Option<u32> {
        while self.left == 0 {
            let header = varint(bytes, &mut self.at)?;
            if header & 1 == 0 {
                self.left = header >> 1;
                self.repeated = Some(bits(bytes, self.at.checked_mul(8)?, self.width)? as u32);
                self.at += self.width.div_ceil(8);
            } else {
                let groups = header >> 1;
                self.left = groups.checked_mul(8)?;
                self.repeated = None;
                self.bit = self.at.checked_mul(8)?;
                let length = usize::try_from(groups).ok()?.checked_mul(self.width)?;
                self.at = self.at.checked_add(length)?;
            }
        }
        self.left -= 1;
        if self.repeated.is_some() {
            return self.repeated;
        }
        let number = bits(bytes, self.bit, self.width)?;
        self.bit += self.width;
        Some(number as u32)
    }
}

/// Numbers as differences from the one before, in blocks of small blocks of equally many bits.
#[derive(Clone)]
struct Delta {
    at: usize,
    /// Numbers of a small block, and small blocks of a block.
    size: u64,
    blocks: usize,
    number: i64,
    started: bool,
    lowest: i64,
    /// Of the widths of the current block's small blocks.
    widths: usize,
    block: usize,
    /// Numbers to come of the small block, the bit of the next, and their bits.
    left: u64,
    bit: usize,
    width: usize,
}

impl Delta {
    /// Of `count` numbers that start at `at`, which becomes their end.
    fn new(bytes: &[u8], at: &mut usize, count: u64) -> Option<Self> {
        let size = varint(bytes, at)?;
        let blocks = varint(bytes, at)?;
        let found = varint(bytes, at)?;
        let number = zigzag(bytes, at)?;
        if blocks == 0 || size % blocks != 0 || size / blocks % 8 != 0 || found != count {
            return None;
        }
        let blocks = usize::try_from(blocks).ok()?;
        let delta = Self {
            at: *at,
            size: size / blocks as u64,
            blocks,
            number,
            started: false,
            lowest: 0,
            widths: 0,
            block: blocks,
            left: 0,
            bit: 0,
            width: 0,
        };
        let mut end = delta.clone();
        for _ in 0..count {
            end.next(bytes)?;
        }
        *at = end.at;
        Some(delta)
    }

    fn next(&mut self, bytes: &[u8]) -> Option<i64> {
        if !self.started {
            self.started = true;
            return Some(self.number);
        }
        if self.left == 0 {
            if self.block == self.blocks {
                self.lowest = zigzag(bytes, &mut self.at)?;
                self.widths = take(&mut self.at, self.blocks)?.start;
                self.block = 0;
            }
            self.width = usize::from(*bytes.get(self.widths.checked_add(self.block)?)?);
            if self.width > 64 {
                return None;
            }
            self.bit = self.at.checked_mul(8)?;
            let length = self.width.checked_mul(usize::try_from(self.size / 8).ok()?)?;
            self.at = self.at.checked_add(length)?;
            self.left = self.size;
            self.block += 1;
        }
        self.left = self.left.checked_sub(1)?;
        let above = bits(bytes, self.bit, self.width)? as i64;
        self.bit += self.width;
        self.number = self.number.wrapping_add(self.lowest).wrapping_add(above);
        Some(self.number)
    }
}
