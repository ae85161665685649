// Where a map's pixel lies in its tensor, as studio/tensors.py lays tensors out: form, full shape, sample, channel, y, x.

export function placeOf(form, full, sample, channel, y, x) {
  switch (form.name) {
    case "maps": return [sample, channel, y, x];
    case "filters": return [channel, sample, y, x];
    case "maps_last": return [sample, y, x, channel];
    case "tokens": return [sample, form.skipped + y * form.width + x, channel];
    case "volume": return [sample, Math.floor(channel / full[2]), channel % full[2], y, x];
    case "vector": {
      const at = y * form.width + x;
      const count = full.length >= 2 ? full[1] : full[0] ?? 1;
      if (at >= count) return null;
      return [[], [at], [sample, at]][full.length] ?? [sample, at, 0, 0];
    }
    default: {
      const lead = [];
      let rest = sample;
      for (const length of full.slice(0, -2).reverse()) {
        lead.unshift(rest % length);
        rest = Math.floor(rest / length);
      }
      return [...lead, y, x];
    }
  }
}
