//! Python's `random.Random`, as far as few-shot samples and bootstraps draw from it.
//!
//! MT19937 (Matsumoto and Nishimura, *Mersenne Twister: a 623-dimensionally equidistributed uniform
//! pseudo-random number generator*, 1998), seeded by a whole number through `init_by_array`;
//! `random()` takes 53 bits of two words, `sample` and `choices` are those of CPython 3.11
//! (`Lib/random.py`).

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// A generator in Python's state.
#[derive(Clone)]
pub struct PythonRandom {
    state: Box<[u32; WORDS]>,
    next: usize,
}

impl PythonRandom {
    /// `random.Random(seed)`.
    pub fn new(seed: u64) -> Self {
        let mut key = vec![seed as u32];
        if seed > u64::from(u32::MAX) {
            key.push((seed >> 32) as u32);
        }
        let mut state = Box::new([0_u32; WORDS]);
        state[0] = 19_650_218;
        for i in 1..WORDS {
            let last = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = last.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        let (mut i, mut j) = (1, 0);
        for _ in 0..WORDS.max(key.len()) {
            let last = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = (state[i] ^ last.wrapping_mul(1_664_525))
                .wrapping_add(key[j])
                .wrapping_add(j as u32);
            i += 1;
            j = (j + 1) % key.len();
            if i == WORDS {
                state[0] = state[WORDS - 1];
                i = 1;
            }
        }
        for _ in 0..WORDS - 1 {
            let last = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = (state[i] ^ last.wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i += 1;
            if i == WORDS {
                state[0] = state[WORDS - 1];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        Self { state, next: WORDS }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..WORDS {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % WORDS] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % WORDS] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// `random()`: from 0 up to and without 1.
    pub fn random(&mut self) -> f64 {
        let high = f64::from(self.word() >> 5);
        let low = f64::from(self.word() >> 6);
        (high * 67_108_864.0 + low) * (1.0 / 9_007_199_254_740_992.0)
    }

    /// `_randbelow(n)`: whole numbers below `n`, which is above 0.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = self.bits(bits);
            if drawn < n as u64 {
                return drawn as usize;
            }
        }
    }

    /// `getrandbits(k)` for 1 to 64 bits.
    fn bits(&mut self, k: u32) -> u64 {
        if k <= 32 {
            return u64::from(self.word() >> (32 - k));
        }
        let low = u64::from(self.word());
        let high = u64::from(self.word() >> (64 - k));
        (high << 32) | low
    }

    /// The places of `sample(population, k)` in a population of `n`; none where `k` is above `n`.
    pub fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n {
            return None;
        }
        // Python takes a list where that is smaller than a set of the selected.
        let mut set_size = 21.0;
        if k > 5 {
            set_size += 4_f64.powf((k as f64 * 3.0).log(4.0).ceil());
        }
        if n as f64 <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            let drawn = (0..k).map(|i| {
                let j = self.below(n - i);
                let place = pool[j];
                pool[j] = pool[n - i - 1];
                place
            });
            return Some(drawn.collect());
        }
        let mut selected = std::collections::BTreeSet::new();
        let mut drawn = Vec::with_capacity(k);
        while drawn.len() < k {
            let j = self.below(n);
            if selected.insert(j) {
                drawn.push(j);
            }
        }
        Some(drawn)
    }

    /// A place of `choices(population)` in a population of `n`.
    pub fn choice(&mut self, n: usize) -> usize {
        (self.random() * n as f64).floor() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures of CPython 3.11.7.
    #[test]
    fn figures_of_python() {
        let mut r = PythonRandom::new(0);
        assert_eq!(r.random(), 0.8444218515250481);
        assert_eq!(r.sample(5, 5).unwrap(), [3, 0, 1, 2, 4]);
        assert_eq!(r.sample(100, 3).unwrap(), [38, 61, 45]);
        assert_eq!(r.sample(21, 5).unwrap(), [18, 6, 16, 4, 9]);
        assert_eq!(r.sample(22, 5).unwrap(), [4, 3, 19, 8, 17]);
        assert_eq!(r.sample(60, 6).unwrap(), [45, 51, 38, 9, 19, 6]);
        assert_eq!(r.sample(86, 6).unwrap(), [9, 42, 60, 71, 12, 45]);
        assert_eq!(r.sample(1000, 10).unwrap(), [444, 323, 625, 655, 934, 209, 989, 565, 488, 453]);
        assert_eq!(r.sample(5000, 64).unwrap().iter().sum::<usize>(), 160097);
        assert_eq!(
            r.sample(3000000000, 4).unwrap(),
            [924282500, 2918320134, 2533176784, 1801409089]
        );
        assert_eq!(
            (0..8).map(|_| r.choice(1000)).collect::<Vec<_>>(),
            [579, 450, 660, 996, 916, 793, 82, 612]
        );
        (0..2000).for_each(|_| assert!(r.random() < 1.0));
        assert_eq!(r.random(), 0.40313853088502094);
        let mut r = PythonRandom::new(1234);
        assert_eq!(r.random(), 0.9664535356921388);
        assert_eq!(r.sample(5, 5).unwrap(), [3, 0, 4, 2, 1]);
        assert_eq!(r.sample(100, 3).unwrap(), [85, 88, 10]);
        assert_eq!(r.sample(21, 5).unwrap(), [3, 11, 7, 0, 17]);
        assert_eq!(r.sample(22, 5).unwrap(), [0, 11, 20, 19, 15]);
        assert_eq!(r.sample(60, 6).unwrap(), [39, 29, 9, 5, 11, 45]);
        assert_eq!(r.sample(86, 6).unwrap(), [14, 1, 64, 62, 31, 8]);
        assert_eq!(r.sample(1000, 10).unwrap(), [683, 554, 934, 477, 70, 615, 691, 91, 527, 592]);
        assert_eq!(r.sample(5000, 64).unwrap().iter().sum::<usize>(), 157672);
        assert_eq!(
            r.sample(3000000000, 4).unwrap(),
            [532046260, 797239823, 1788101245, 1872862534]
        );
        assert_eq!(
            (0..8).map(|_| r.choice(1000)).collect::<Vec<_>>(),
            [769, 939, 103, 840, 376, 816, 255, 191]
        );
        (0..2000).for_each(|_| assert!(r.random() < 1.0));
        assert_eq!(r.random(), 0.4614340043095039);
        let mut r = PythonRandom::new(1099511627779);
        assert_eq!(r.random(), 0.21978710637116716);
        assert_eq!(r.sample(5, 5).unwrap(), [4, 0, 2, 1, 3]);
        assert_eq!(r.sample(100, 3).unwrap(), [29, 60, 71]);
        assert_eq!(r.sample(21, 5).unwrap(), [17, 10, 8, 9, 18]);
        assert_eq!(r.sample(22, 5).unwrap(), [15, 10, 17, 11, 3]);
        assert_eq!(r.sample(60, 6).unwrap(), [2, 35, 29, 7, 53, 31]);
        assert_eq!(r.sample(86, 6).unwrap(), [8, 3, 46, 13, 33, 26]);
        assert_eq!(r.sample(1000, 10).unwrap(), [769, 675, 557, 991, 862, 252, 709, 313, 437, 937]);
        assert_eq!(r.sample(5000, 64).unwrap().iter().sum::<usize>(), 167099);
        assert_eq!(
            r.sample(3000000000, 4).unwrap(),
            [212630615, 556150883, 1156461234, 2714327815]
        );
        assert_eq!(
            (0..8).map(|_| r.choice(1000)).collect::<Vec<_>>(),
            [915, 893, 140, 441, 74, 645, 760, 369]
        );
        (0..2000).for_each(|_| assert!(r.random() < 1.0));
        assert_eq!(r.random(), 0.07777416552885641);
        assert_eq!(PythonRandom::new(0).sample(3, 4), None);
    }
}
