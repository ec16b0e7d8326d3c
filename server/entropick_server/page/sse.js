// Server-sent events out of a stream of bytes.

/** Yields the data of each event of `stream` (a ReadableStream of bytes), as the standard says. */
export async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let held = '';
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      held += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = held.split(/\r\n|\n|\r(?!$)/);
      held = lines.pop();
      for (const line of lines) {
        if (line === '') {
          if (data.length) yield data.join('\n');
          data = [];
        } else if (line.startsWith('data:')) {
          data.push(line.slice(line[5] === ' ' ? 6 : 5));
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
