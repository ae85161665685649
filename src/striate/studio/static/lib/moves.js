// How a picture was moved, as its id says it: p0~r30x2y-3n0.1s1c4.4.8.8. The server's Moves writes and reads the same.

export const STILL = { turn: 0, across: 0, down: 0, noise: 0, seed: 0, cover: [0, 0, 0, 0] };

const WRITTEN = /^(?:r(-?[\d.]+))?(?:x(-?[\d.]+))?(?:y(-?[\d.]+))?(?:n(-?[\d.]+))?(?:s(\d+))?(?:c(\d+)\.(\d+)\.(\d+)\.(\d+))?$/;

// {of, moves} of an id.
export function parted(id) {
  const [of, text = ""] = (id ?? "").split("~");
  const found = WRITTEN.exec(text);
  if (!found) return { of, moves: STILL };
  const [turn, across, down, noise, seed, ...cover] = found.slice(1).map((each) => Number(each ?? 0));
  return { of, moves: { turn, across, down, noise, seed, cover } };
}

export function written({ of, moves }) {
  const number = (value) => String(Number(value.toFixed(3)));
  const text = [["r", moves.turn], ["x", moves.across], ["y", moves.down], ["n", moves.noise]]
    .filter(([, value]) => Number(value.toFixed(3)) !== 0).map(([letter, value]) => `${letter}${number(value)}`).join("")
    + (moves.noise && moves.seed ? `s${moves.seed}` : "")
    + (moves.cover[2] && moves.cover[3] ? `c${moves.cover.join(".")}` : "");
  return text ? `${of}~${text}` : of;
}
