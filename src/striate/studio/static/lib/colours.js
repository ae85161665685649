// Colours of numbers. With one sign: from dark to bright, in lightness and from blue to yellow, which colour-blind people
// see alike. With both: blue below zero, white at zero, orange above, as strong as the number is large.

const RISING = [[8, 18, 58], [26, 56, 112], [60, 92, 121], [106, 122, 120], [156, 150, 108], [212, 184, 84], [255, 226, 92], [255, 250, 200]];
const BELOW = [[255, 255, 255], [171, 205, 235], [84, 148, 206], [28, 88, 160], [8, 36, 88]];
const ABOVE = [[255, 255, 255], [255, 214, 160], [246, 152, 60], [198, 86, 6], [104, 36, 0]];
export const MISSING = [200, 0, 200]; // NaN and infinities

const STEPS = 512;

function table(stops) {
  const colours = new Uint8ClampedArray(3 * STEPS);
  for (let step = 0; step < STEPS; step += 1) {
    const at = (step / (STEPS - 1)) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    for (let part = 0; part < 3; part += 1) {
      colours[3 * step + part] = stops[low][part] + (at - low) * (stops[low + 1][part] - stops[low][part]);
    }
  }
  return colours;
}

const TABLES = {
  rising: table(RISING),
  diverging: table([...BELOW.toReversed(), ...ABOVE.slice(1)]),
};

// The scale for numbers from low to high: {kind, low, high}. Diverging scales are symmetric about zero.
export function scaleOf(low, high) {
  if (!(low <= high)) return { kind: "rising", low: 0, high: 1 };
  if (low < 0 && high > 0) {
    const most = Math.max(-low, high);
    return { kind: "diverging", low: -most, high: most };
  }
  if (low === high) return high > 0 ? { kind: "rising", low: 0, high } : { kind: "rising", low, high: low < 0 ? 0 : 1 };
  return { kind: "rising", low, high };
}

// Least and largest finite number.
export function extent(data, from = 0, to = data.length) {
  let low = Infinity;
  let high = -Infinity;
  for (let place = from; place < to; place += 1) {
    const value = data[place];
    if (Number.isFinite(value)) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : [0, 0];
}

// The colour of a number as [red, green, blue].
export function colour(value, scale) {
  if (!Number.isFinite(value)) return MISSING;
  const share = (value - scale.low) / (scale.high - scale.low || 1);
  const step = Math.max(0, Math.min(STEPS - 1, Math.round(share * (STEPS - 1))));
  return TABLES[scale.kind].subarray(3 * step, 3 * step + 3);
}

// Whether dark text is read better on a colour.
export function isBright([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
}
