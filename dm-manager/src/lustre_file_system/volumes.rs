//! The PersistentVolumes and claims of a filesystem, as lustre-fs-operator makes them, for clusters that
//! do not have it: same names, same fields, and the form that each known CSI driver wants. It writes
//! nothing.

use std::collections::BTreeMap;

use clap::ValueEnum;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use longshore::api::LustreFileSystem;
use serde_json::{Value, json};

/// The storage class when the object names none; it need not exist.
const STORAGE_CLASS: &str = "nnf-lustre-fs";

/// The label on what was made here, with the name of the filesystem; its namespace is in the second one.
pub(crate) const MADE_FOR: [&str; 2] =
    ["longshore.dev/lustre-file-system", "longshore.dev/lustre-file-system-namespace"];

/// A CSI driver that mounts Lustre.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Driver {
    /// lustre-csi.hpe.com
    Hpe,
    /// lustre.csi.klustrefs.io
    Klustre,
    /// fsx.csi.aws.com
    Fsx,
    /// azurelustre.csi.azure.com, whose filesystems are all called lustrefs
    Azure,
    /// lustre.csi.storage.gke.io
    Gke,
}

/// The name of the volume of a filesystem for a namespace.
pub(crate) fn volume_name(file_system: &str, namespace: &str, mode: &str) -> String {
    format!("{file_system}-{namespace}-{}-pv", mode.to_lowercase())
}

/// The name of its claim there.
pub(crate) fn claim_name(file_system: &str, namespace: &str, mode: &str) -> String {
    format!("{file_system}-{namespace}-{}-pvc", mode.to_lowercase())
}

/// The namespaces and modes that a filesystem is to have volumes for.
pub(crate) fn wanted(of: &LustreFileSystem) -> Vec<(String, String)> {
    let namespaces = of.spec.namespaces.iter().flatten();
    let pairs = namespaces.flat_map(|(namespace, modes)| {
        let modes = modes.modes.iter().flatten();
        modes.map(|mode| (namespace.clone(), mode.clone()))
    });
    pairs.collect()
}

/// The source of a filesystem's volume, in the form of a driver.
fn source(driver: Driver, of: &LustreFileSystem, volume: &str) -> Value {
    let spec = &of.spec;
    let mount = format!("{}:/{}", spec.mgs_nids, spec.name);
    // The first address, without its network.
    let first = spec.mgs_nids.split([',', ':']).next().unwrap_or_default();
    let host = first.split('@').next().unwrap_or_default();
    let (name, handle, attributes) = match driver {
        Driver::Hpe => {
            return json!({
                "driver": "lustre-csi.hpe.com", "fsType": "lustre", "volumeHandle": mount,
            });
        }
        Driver::Klustre => ("lustre.csi.klustrefs.io", volume.to_owned(), json!({"source": mount})),
        Driver::Fsx => {
            let id = host.split('.').next().filter(|id| id.starts_with("fs-"));
            let attributes = json!({"dnsname": host, "mountname": spec.name});
            ("fsx.csi.aws.com", id.unwrap_or(volume).to_owned(), attributes)
        }
        Driver::Azure => {
            ("azurelustre.csi.azure.com", volume.to_owned(), json!({"mgs-ip-address": host}))
        }
        Driver::Gke => {
            let attributes = json!({"ip": host, "filesystem": spec.name});
            ("lustre.csi.storage.gke.io", format!("-/-/{volume}"), attributes)
        }
    };
    json!({"driver": name, "volumeHandle": handle, "volumeAttributes": attributes})
}

/// The volume of a filesystem for a namespace, and its claim there.
pub(crate) fn make(
    driver: Driver,
    of: &LustreFileSystem,
    namespace: &str,
    mode: &str,
) -> (PersistentVolume, PersistentVolumeClaim) {
    let name = of.name_any();
    let (volume, claim) = (volume_name(&name, namespace, mode), claim_name(&name, namespace, mode));
    let class = of.spec.storage_class_name.as_deref().unwrap_or(STORAGE_CLASS);
    let labels: BTreeMap<&str, String> =
        MADE_FOR.into_iter().zip([name, of.namespace().unwrap_or_default()]).collect();
    let capacity = json!({"storage": "1"});
    let made = json!({
        "metadata": {"name": volume, "labels": labels},
        "spec": {
            // Whatever was asked for: the claim has that, and Lustre does not care.
            "accessModes": ["ReadWriteMany"],
            "capacity": capacity,
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": namespace, "name": claim,
            },
            "csi": source(driver, of, &volume),
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": class,
            "volumeMode": "Filesystem",
        },
    });
    let claimed = json!({
        "metadata": {"name": claim, "namespace": namespace, "labels": labels},
        "spec": {
            "accessModes": [mode],
            "resources": {"requests": capacity},
            "storageClassName": class,
            "volumeName": volume,
        },
    });
    let known = "these are fields of the kind, with values of their types";
    (serde_json::from_value(made).expect(known), serde_json::from_value(claimed).expect(known))
}

#[cfg(test)]
mod tests {
    use longshore::api::Version;

    use super::*;

    fn file_system(nids: &str) -> LustreFileSystem {
        let mut object = LustreFileSystem::new(&Version::new("v1beta1"), "lus1");
        object.metadata.namespace = Some("default".to_owned());
        object.spec.name = "scratch".to_owned();
        object.spec.mgs_nids = nids.to_owned();
        object
    }

    #[test]
    fn the_objects_are_those_of_the_operator() {
        let of = file_system("172.31.241.111@tcp");
        let (volume, claim) = make(Driver::Hpe, &of, "nnf-dm-system", "ReadWriteMany");
        let volume = serde_json::to_value(volume).unwrap();
        assert_eq!(volume["metadata"]["name"], "lus1-nnf-dm-system-readwritemany-pv");
        let csi = json!({
            "driver": "lustre-csi.hpe.com", "fsType": "lustre",
            "volumeHandle": "172.31.241.111@tcp:/scratch",
        });
        assert_eq!(volume["spec"]["csi"], csi);
        assert_eq!(volume["spec"]["capacity"], json!({"storage": "1"}));
        let claim = serde_json::to_value(claim).unwrap();
        assert_eq!(claim["metadata"]["name"], "lus1-nnf-dm-system-readwritemany-pvc");
        assert_eq!(claim["spec"]["volumeName"], volume["metadata"]["name"]);
        assert_eq!(claim["spec"]["storageClassName"], "nnf-lustre-fs");
        assert_eq!(volume["spec"]["claimRef"]["name"], claim["metadata"]["name"]);
    }

    #[test]
    fn every_driver_has_its_form() {
        let of = file_system("fs-0a1b.fsx.eu-west-1.amazonaws.com@tcp");
        let csi = |driver| {
            let (volume, _) = make(driver, &of, "default", "ReadOnlyMany");
            serde_json::to_value(volume.spec.unwrap().csi).unwrap()
        };
        let host = "fs-0a1b.fsx.eu-west-1.amazonaws.com";
        let volume = "lus1-default-readonlymany-pv";
        let expected = json!({
            "driver": "fsx.csi.aws.com", "volumeHandle": "fs-0a1b",
            "volumeAttributes": {"dnsname": host, "mountname": "scratch"},
        });
        assert_eq!(csi(Driver::Fsx), expected);
        let expected = json!({
            "driver": "lustre.csi.klustrefs.io", "volumeHandle": volume,
            "volumeAttributes": {"source": format!("{host}@tcp:/scratch")},
        });
        assert_eq!(csi(Driver::Klustre), expected);
        assert_eq!(csi(Driver::Azure)["volumeAttributes"], json!({"mgs-ip-address": host}));
        let expected = json!({"ip": host, "filesystem": "scratch"});
        assert_eq!(csi(Driver::Gke)["volumeAttributes"], expected);
    }
}
