// Node-RED without its editor: started as `node red.js --settings settings.js --userDir FOLDER flow.json`
module.exports = {
  uiHost: '127.0.0.1',
  uiPort: process.env.PEERS_UI_PORT,
  httpAdminRoot: false,
  httpNodeRoot: '/',
  credentialSecret: false,
  telemetry: { enabled: false, updateNotification: false },
  runtimeState: { enabled: false },
  diagnostics: { enabled: false },
  functionExternalModules: false,
  contextStorage: { default: { module: 'memory' } },
  logging: { console: { level: 'warn', metrics: false, audit: false } }
}
