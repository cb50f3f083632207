// The official JavaScript SDK in each encoding of the protocol, and the data that applications get
// from it: in Protobuf that is bytes, of the same JSON.

import { Centrifuge as JsonCentrifuge } from 'centrifuge'
import { Centrifuge as ProtobufCentrifuge } from 'centrifuge/build/protobuf'

export const clients = { json: JsonCentrifuge, protobuf: ProtobufCentrifuge }

export function parsed(data) {
  return data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data
}
