//! Philox4x32-10: random numbers as a function of (stream, element), in any order.
//!
//! Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. A block of
//! the generator yields four words; sixteen blocks are computed side by side. An element's number
//! has 32 bits: with `h` 0 or 1, `w` below 4 and `b` below 16, element `128·g + 64·h + 16·w + b`
//! has half `h` (0 is the lower) of word `w` of block `16·g + b` as its upper half, and the same
//! half of block `2⁶³ + 16·g + b` as its lower one. The second is computed only where the first
//! does not decide a comparison, about once in 500 groups.

/// Names one stream of random words: the generator's key and the upper half of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The 64-bit key, low word first.
    pub key: [u32; 2],
    /// The upper two words of the 128-bit counter; the lower two count blocks.
    pub nonce: [u32; 2],
}

/// Blocks computed side by side.
const BLOCKS: usize = 16;
/// Words of sixteen blocks.
const WORDS: usize = 4 * BLOCKS;
/// Elements whose numbers are computed together.
pub(crate) const GROUP: usize = 2 * WORDS;
/// Where the blocks of the lower halves begin, in groups.
const LOWER_HALVES: u64 = (1 << 63) / BLOCKS as u64;

const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

impl Stream {
    /// The upper halves of the numbers of elements `128·group .. 128·group + 128`, where these are
    /// enough to tell which numbers are below `limit`: those whose half is below that of `limit`.
    #[inline(always)]
    pub(super) fn upper_halves(self, group: u64, limit: u32) -> Option<[u32; GROUP]> {
        let halves = self.all_upper_halves(group);
        let mut undecided = 0;
        for half in halves {
            undecided |= u32::from(half == limit >> 16);
        }
        // A number with the same upper half is not below a limit whose lower half is 0.
        (undecided == 0 || limit & 0xffff == 0).then_some(halves)
    }

    /// The upper halves of the numbers of elements `128·group .. 128·group + 128`.
    #[inline(always)]
    pub(super) fn all_upper_halves(self, group: u64) -> [u32; GROUP] {
        halves(self.words(group))
    }

    /// The numbers of elements `128·group .. 128·group + 128`.
    pub(crate) fn numbers(self, group: u64) -> [u32; GROUP] {
        let upper = self.all_upper_halves(group);
        let mut numbers = halves(self.words(LOWER_HALVES + group));
        for (number, upper) in numbers.iter_mut().zip(upper) {
            *number |= upper << 16;
        }
        numbers
    }

    /// The words of sixteen blocks from block `16·group` on: word `w` of block `b` is at `16·w + b`.
    #[inline(always)]
    fn words(self, group: u64) -> [u32; WORDS] {
        // A word in the low half of a u64, whatever the upper half holds: what the widening
        // multiplication of vector units reads and writes.
        let low = |word: u64| word & 0xffff_ffff;
        let mut c = [[0_u64; BLOCKS]; 4];
        for b in 0..BLOCKS {
            let block = group * BLOCKS as u64 + b as u64;
            c[0][b] = block;
            c[1][b] = block >> 32;
            c[2][b] = u64::from(self.nonce[0]);
            c[3][b] = u64::from(self.nonce[1]);
        }
        let mut key = self.key;
        for _ in 0..10 {
            for b in 0..BLOCKS {
                let p0 = MULTIPLIERS[0] * low(c[0][b]);
                let p1 = MULTIPLIERS[1] * low(c[2][b]);
                c[0][b] = (p1 >> 32) ^ c[1][b] ^ u64::from(key[0]);
                c[1][b] = p1;
                c[2][b] = (p0 >> 32) ^ c[3][b] ^ u64::from(key[1]);
                c[3][b] = p0;
            }
            key[0] = key[0].wrapping_add(KEY_STEPS[0]);
            key[1] = key[1].wrapping_add(KEY_STEPS[1]);
        }
        let mut words = [0; WORDS];
        for (words, c) in words.as_chunks_mut::<BLOCKS>().0.iter_mut().zip(&c) {
            for b in 0..BLOCKS {
                words[b] = c[b] as u32;
            }
        }
        words
    }
}

/// The lower halves of all words, then the upper ones.
#[inline(always)]
fn halves(words: [u32; WORDS]) -> [u32; GROUP] {
    let mut halves = [0; GROUP];
    for i in 0..WORDS {
        halves[i] = words[i] & 0xffff;
        halves[WORDS + i] = words[i] >> 16;
    }
    halves
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123 1.09 (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        for (counter, key, answer) in [
            ([0_u32; 4], [0_u32; 2], [0x6627_e8d5_u32, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            let stream = Stream { key, nonce: [counter[2], counter[3]] };
            let block = u64::from(counter[1]) << 32 | u64::from(counter[0]);
            let (group, b) = (block / BLOCKS as u64, block as usize % BLOCKS);
            let words = stream.words(group);
            let found = [words[b], words[16 + b], words[32 + b], words[48 + b]];
            assert_eq!(found, answer);
        }
    }
}
