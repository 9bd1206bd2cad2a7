// A fleet of MQTT.js clients in one process: node mqttjs_fleet.js PORT ROSTER INTERVAL_S
// Devices, payload and figures are those of devices.py.
'use strict'

const fs = require('fs')
const mqtt = require(process.env.PEERS_MODULES + '/mqtt')

const CONNECTING_MAX = 100
const SLOT_MS = 5
const DRAIN_MS = 10000

const [port, roster, intervalS] = process.argv.slice(2)
const devices = JSON.parse(fs.readFileSync(roster, 'utf8'))
const gapMs = (Number(intervalS) * 1000) / devices.length
const ackMs = []
let sent = 0
let acknowledged = 0
let stopped = false

process.on('SIGTERM', () => { stopped = true })

function payload (device, seq) {
  const values = {}
  for (const name of device.quantities) values[name] = Math.round(Math.random() * 5000) / 100
  return JSON.stringify({ ts: Date.now(), seq, values })
}

function connect (device) {
  return new Promise((resolve) => {
    const client = mqtt.connect({
      host: '127.0.0.1', port: Number(port), clientId: device.client_id,
      protocolVersion: 4, clean: true, keepalive: 60
    })
    client.on('error', () => {}) // it reconnects by itself
    client.once('connect', () => resolve(client))
  })
}

async function connectAll () {
  const clients = new Array(devices.length)
  let next = 0
  async function some () {
    while (next < devices.length) {
      const number = next++
      clients[number] = await connect(devices[number])
    }
  }
  await Promise.all(Array.from({ length: CONNECTING_MAX }, some))
  return clients
}

function send (client, device, seq) {
  const began = performance.now()
  sent++
  client.publish(device.topic, payload(device, seq), { qos: 1 }, (error) => {
    if (error) return
    acknowledged++
    ackMs.push(performance.now() - began)
  })
}

function percentile (ordered, share) {
  return Math.round(ordered[Math.ceil(share * ordered.length) - 1] * 1000) / 1000
}

async function leave (clients) {
  const until = performance.now() + DRAIN_MS
  while (performance.now() < until && acknowledged < sent) {
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  await Promise.all(clients.map((client) => client.endAsync()))
  const ordered = Float32Array.from(ackMs).sort()
  const times = ordered.length ? { p50: percentile(ordered, 0.5), p99: percentile(ordered, 0.99) } : {}
  console.log(JSON.stringify({ sent, acknowledged, ack_ms: times }))
}

async function main () {
  const clients = await connectAll()
  const began = performance.now()
  let turn = 0
  const timer = setInterval(() => {
    if (stopped) {
      clearInterval(timer)
      leave(clients)
      return
    }
    const until = performance.now() + SLOT_MS
    while (began + turn * gapMs <= performance.now() && performance.now() < until) {
      const number = turn % devices.length
      send(clients[number], devices[number], Math.floor(turn / devices.length))
      turn++
    }
  }, SLOT_MS)
}

main()
