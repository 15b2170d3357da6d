/* One output of the bot on its way to the engine. */

#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

void open_stream(struct stream *stream, int source, int target) {
    stream->source = source;
    stream->target = target;
    stream->open = true;
    stream->last = '\n';
    stream->begin = stream->end = 0;
    /* The engine may stop reading; the switch must fire all the same. */
    fcntl(source, F_SETFL, O_NONBLOCK);
    int flags = fcntl(target, F_GETFL);
    if (flags >= 0) fcntl(target, F_SETFL, flags | O_NONBLOCK);
}

bool is_pending(const struct stream *stream) { return stream->begin < stream->end; }

size_t fill_stream(struct stream *stream, size_t most) {
    ssize_t taken = read(stream->source, stream->buffer, most < CHUNK_BYTES ? most : CHUNK_BYTES);
    if (taken < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (taken <= 0) {
        stream->open = false;
        close(stream->source);
        return 0;
    }
    stream->begin = 0;
    stream->end = (size_t)taken;
    stream->last = stream->buffer[taken - 1];
    return (size_t)taken;
}

void empty_stream(struct stream *stream) {
    ssize_t written = write(stream->target, stream->buffer + stream->begin, stream->end - stream->begin);
    if (written >= 0) {
        stream->begin += (size_t)written;
    } else if (errno != EAGAIN && errno != EINTR) {
        /* Nobody reads any more; the bot is not to die of that. */
        stream->begin = stream->end;
    }
}
