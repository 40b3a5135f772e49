-- Number a message of a topic, keep it in the topic's log, and publish it.
--
-- Atomicity: Redis runs the script with no other command in between, so a number is given once, and subscribers
-- receive messages in the order of their numbers. A message whose number in its process is not above the last one
-- that Redis has of that process changes nothing: it was sent twice. If XADD fails, its error is returned, and the
-- message is neither numbered nor published; a log of an epoch that is over may be deleted by then.
--
-- KEYS  1  where the topic stands: a hash of epoch, offset, run
--       2  the topic's log: a stream, whose ids are "OFFSET-1"
--       3  the number of the last message of the publishing process in this shard
-- ARGV  1  the incarnation of the server, by which a restart that may have lost something is noticed
--       2  the name of an epoch, in case a new one begins
--       3  the topic
--       4  the message
--       5  how many messages are kept
--       6  for how long they are kept, in ms; 0: for ever
--       7  after how long without a message the topic is forgotten, in ms
--       8  the channel
--       9  PUBLISH or SPUBLISH
--      10  the number that the publishing process gave this message
--      11  for how long that number is remembered, in ms
--
-- Returns the message's offset, 0 for a message that was sent twice, or an error.
--
-- Others may write to the same Redis: foreign values where the topic stands, or at the end of its log, make a new
-- epoch begin.

local topic_key, log_key, last_number_key = KEYS[1], KEYS[2], KEYS[3]
local incarnation, new_epoch, topic, message = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most_kept, most_age, forget_after = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local channel, publish = ARGV[8], ARGV[9]
local number, remember_for = ARGV[10], ARGV[11]

local epoch, offset, run = unpack(redis.call('HMGET', topic_key, 'epoch', 'offset', 'run'))
local last_number = redis.call('GET', last_number_key)
if last_number and (tonumber(last_number) or 0) >= tonumber(number) then return 0 end

local is_ours = epoch and #epoch <= 64 and string.match(epoch, '^[%w.-]+$')
  and offset and #offset <= 15 and string.match(offset, '^%d+$')
if not is_ours or run ~= incarnation then
  epoch, offset = new_epoch, 0
  redis.call('DEL', log_key)
end
offset = offset + 1

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function add()
  return redis.pcall('XADD', log_key, 'MAXLEN', most_kept, string.format('%d-1', offset),
    'ms', string.format('%d', now), 'body', message)
end
local added = add()
if type(added) == 'table' and added.err and string.find(added.err, 'equal or smaller', 1, true) then
  epoch, offset = new_epoch, 1
  redis.call('DEL', log_key)
  added = add()
end
if type(added) == 'table' and added.err then return added end
redis.call('HSET', topic_key, 'epoch', epoch, 'offset', string.format('%d', offset), 'run', incarnation)

if most_age > 0 then
  for _ = 1, 100 do
    local oldest = redis.call('XRANGE', log_key, '-', '+', 'COUNT', 1)[1]
    if not oldest or (tonumber(oldest[2][2]) or 0) + most_age > now then break end
    redis.call('XDEL', log_key, oldest[1])
  end
end
redis.call('PEXPIRE', topic_key, forget_after)
redis.call('PEXPIRE', log_key, forget_after)
redis.call('SET', last_number_key, number, 'PX', remember_for)

local position = string.format(' %s %d', epoch, offset)
redis.call(publish, channel, '\1' .. topic .. position .. '\n' .. message)
return offset
