"""What Redis does in one call for all requests that came together: the rules of decide.py, with Redis' own clock.

KEYS: who the gateways are (a sorted set by when they were last seen), the last message of each (a hash), and a hash
for each user of the message: r, t: requests and tokens in the buckets at the time a; m, u: month and tokens that it
used; c:GATEWAY: requests that run at a gateway, as that gateway last said. Places of a gateway that wasn't seen for
ALIVE_SECONDS don't count.

ARGV[1] is a Message in msgpack, ARGV[2] its time if not Redis' own, for tests. A message tells what was given back and
used since the last one; its number makes sure that one that is sent again, as its answer was lost, counts once.
"""

from ams_gateway.redis_link import PREFIX, Script

ALIVE_SECONDS = 15
GATEWAYS = PREFIX + "limits:gateways"
MESSAGES = PREFIX + "limits:messages"
USER = PREFIX + "limits:user:"


SCRIPT = Script(
    """
if redis.replicate_commands then redis.replicate_commands() end
local message = cmsgpack.unpack(ARGV[1])
local me, number, alive_seconds, leaving, users = message[1], message[2], message[3], message[4], message[5]
local almost, floor, min, max = 0.000001, math.floor, math.min, math.max

local now
if ARGV[2] then
  now = tonumber(ARGV[2])
else
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function month_of(seconds)  -- days since 0000-03-01, as in "chrono-compatible low-level date algorithms"
  local days = floor(seconds / 86400) + 719468
  local era = floor(days / 146097)
  local of_era = days - era * 146097
  local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * of_year + 2) / 153)
  year = year + era * 400
  if month < 10 then return year * 12 + month + 2 end
  return (year + 1) * 12 + month - 10
end
local this_month = month_of(now)

local alive, gateways = {}, 0
if leaving then
  redis.call('ZREM', KEYS[1], me)
else
  redis.call('ZADD', KEYS[1], now, me)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now - alive_seconds, '+inf')) do
  alive[id] = true
  gateways = gateways + 1
end
local new = number > tonumber(redis.call('HGET', KEYS[2], me) or '0')
if new then redis.call('HSET', KEYS[2], me, number) end
if #users == 0 then  -- a sign of life: time to forget the dead
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - 3600)) do
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
  end
end

local function filled(level, limit, seconds)
  if limit == 0 then return 0 end
  return min(limit, (level or limit) + limit * seconds / 60)
end

local replies = {}
for index, user in ipairs(users) do
  local key = KEYS[2 + index]
  local requests_limit, tokens_limit, concurrent_limit, monthly_limit = user[1], user[2], user[3], user[4]
  local give_requests, give_tokens, used, running, asks = user[9], user[10], user[11], user[12], user[13]
  local known, flat = {}, redis.call('HGETALL', key)
  for at = 1, #flat, 2 do known[flat[at]] = flat[at + 1] end

  local requests, tokens, seconds = user[5], user[6], 0
  local since = tonumber(known.a)
  if since then
    seconds = max(0, now - since)
    requests, tokens = tonumber(known.r), tonumber(known.t)
  end
  requests, tokens = filled(requests, requests_limit, seconds), filled(tokens, tokens_limit, seconds)
  local month_tokens = 0
  if tonumber(known.m) == this_month then month_tokens = tonumber(known.u) or 0 end
  if user[7] == this_month then month_tokens = max(month_tokens, user[8]) end
  local changed = not since
  if new and (give_requests ~= 0 or give_tokens ~= 0 or used ~= 0) then
    requests = filled(requests + give_requests, requests_limit, 0)
    tokens = filled(tokens + give_tokens, tokens_limit, 0)
    month_tokens = month_tokens + used
    changed = true
  end

  local others, dead = 0, {}
  for field, value in pairs(known) do
    if string.sub(field, 1, 2) == 'c:' then
      local id = string.sub(field, 3)
      if id ~= me then
        if alive[id] then others = others + tonumber(value) else dead[#dead + 1] = field end
      end
    end
  end

  local granted = {}
  for at, asked in ipairs(asks) do
    local needed = min(asked, tokens_limit)
    if (requests_limit == 0 or requests >= 1 - almost) and (tokens_limit == 0 or tokens >= needed - almost)
      and (concurrent_limit == 0 or running + others < concurrent_limit)
      and (monthly_limit == 0 or month_tokens < monthly_limit) then
      if requests_limit ~= 0 then requests = requests - 1 end
      tokens = tokens - needed
      running = running + 1
      granted[at] = 1
      changed = true
    else
      granted[at] = 0
    end
  end

  local place = 'c:' .. me
  if concurrent_limit == 0 or leaving then running = 0 end
  if running ~= (tonumber(known[place]) or 0) then changed = true end
  if changed then
    redis.call('HSET', key, 'a', string.format('%.6f', now), 'r', string.format('%.6f', requests),
      't', string.format('%.6f', tokens), 'm', this_month, 'u', string.format('%.0f', month_tokens))
    if running > 0 then redis.call('HSET', key, place, running) else dead[#dead + 1] = place end
    if #dead > 0 then redis.call('HDEL', key, unpack(dead)) end
    local keep = 120  -- a bucket that is full again needs no keeping
    if requests_limit ~= 0 then keep = max(keep, 60 + (requests_limit - requests) * 60 / requests_limit) end
    if tokens_limit ~= 0 then keep = max(keep, 60 + (tokens_limit - tokens) * 60 / tokens_limit) end
    if running + others > 0 then keep = max(keep, 86400) end
    if monthly_limit ~= 0 then keep = max(keep, 32 * 86400) end
    redis.call('EXPIRE', key, string.format('%.0f', min(keep, 400 * 86400)))
  end
  replies[index] = {requests, tokens, others, month_tokens, granted}
end
return cmsgpack.pack({gateways, this_month, replies})
"""
)
